"""Heads: models and tables that are fitted to the frozen latents of a level after training."""
