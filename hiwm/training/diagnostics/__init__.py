"""Diagnostics: what a level's latent keeps of the world, measured at every validation. A file for each kind."""
