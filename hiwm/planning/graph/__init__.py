"""A graph of landmarks over the latents of a level, for distances that are longer than one search can see."""
