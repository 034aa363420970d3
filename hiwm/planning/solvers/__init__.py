"""Solvers: one search method a file, over the records of `solver.py`."""
