"""Evaluation: fixed tasks, success rates with confidence intervals, agents compared at equal compute."""
