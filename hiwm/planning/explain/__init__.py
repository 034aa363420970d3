"""Records that explain a plan, and their text."""
