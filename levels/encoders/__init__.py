"""Encoders: the inputs of a level -> its latent."""
