"""Encoders: what a level sees -> its latent."""
