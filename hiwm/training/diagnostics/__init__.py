"""Diagnostics: what a level's latent keeps of the world, measured at every validation. One diagnostic a file."""
