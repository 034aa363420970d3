"""Regularizers: losses that keep latents and macro-actions from collapsing."""
