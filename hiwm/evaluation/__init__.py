"""Evaluation: tasks, success with intervals, equal compute."""
