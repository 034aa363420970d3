"""Environments: thin adapters to other people's.

The contract of an environment that hiwm collects from and evaluates in (beyond gymnasium's own): with
`options={"task_id": i}`, i from 1 to `num_tasks`, `reset` starts task i and its info holds `goal`, an observation;
`step`'s info holds `success`. An environment with an expert puts `expert_action` into its infos while collecting; one
with a map to draw has `walls`, a list of (left, bottom, width, height).
"""
