"""How one level plans: search, follow the inverse model, follow the graph."""
