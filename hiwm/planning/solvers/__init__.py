"""Search methods, one in a file; `solver.py` has their interface and the loop that they share."""
