"""Diverse Maze: a point mass in mazes, with tasks in mazes that are not in the data."""
