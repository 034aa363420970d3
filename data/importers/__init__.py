"""Other people's dataset formats."""
