"""Action encoders: the actions of the level below -> one action of this level."""
