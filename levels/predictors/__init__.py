"""Predictors: (latent, action) -> the next latent."""
