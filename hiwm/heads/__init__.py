"""Heads: small networks and banks of tensors that are fitted to the frozen latents of a level after training."""
