"""Environments: ours, and thin adapters to other people's.

The contract of an environment that hiwm collects from and evaluates in (beyond gymnasium's own): with
`options={"task_id": i, "episode": e}`, i from 1 to `num_tasks` and e from 0, `reset` starts task i and its info holds
`goal`, an observation; `step`'s info holds `success`. An environment with a fixed list of episodes starts number e of it,
others draw from their seed. One with an expert puts `expert_action` into its infos while collecting, when nobody looks at
a goal; one with a map to draw has `walls`, a list of (left, bottom, width, height); one that steps many worlds at once has
`make_vector(num_envs)`, a gymnasium VectorEnv whose worlds start together and whose infos hold `success` and `ended`, (N,);
one that can be given goals in words has `captions(observations)`: what can be said of N observations, as dataset columns or
as one array, a list of `hiwm.envs.captions.Caption`.
"""
