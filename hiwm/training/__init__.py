"""Training: the loop, the stages, checkpoints, several processes, diagnostics."""
