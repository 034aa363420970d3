"""Training: the loop, the stages, checkpoints, several processes, collapse watching."""
