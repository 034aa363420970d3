"""How one level plans: search, follow the inverse model, hand the target down."""
