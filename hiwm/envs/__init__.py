"""Environments: FourRoom, and thin adapters to OGBench.

An environment for hiwm fulfils this contract in addition to Gymnasium's:

- `reset` accepts `options={"task_id": i, "episode": e}`, with i from 1 to `evaluation.num_tasks` and e from 0, and starts task i. An
  environment with a fixed list of episodes starts episode e of the task; others draw start and goal from the seed. The
  info of `reset` holds `goal`, an observation, or its columns in `goal.columns`.
- The info of every `step` holds `success`.

`contract.py` checks it before any work; `gym.py` makes environments of other packages fulfil it.

Optional parts of the contract:

- `info["expert_action"]`: the action of an expert, while data are collected. The info then needs no `goal`.
- `num_tasks`: the number of tasks, which `evaluation.num_tasks` must not exceed.
- `walls`: a list of (left, bottom, width, height), to draw a map.
- `walls_of(observation)`: such a list for the episode that an observation is from, where they differ between episodes; `walls` then holds those that
  all have. The observation is one that hiwm sees, with dotted names for dicts within dicts. An environment with `make_vector` needs it in the vector.
- `make_vector(num_envs)`: a Gymnasium VectorEnv whose episodes start together and whose infos hold `success` and `ended`,
  (N,).
- `oracle`: what is true of the environment (`hiwm.envs.oracle.Oracle`), or None: shortest paths and the dynamics, from which
  diagnostics compute true distances and `hiwm ladder` true subgoals, distances and predictions.
- `captions(observations)`: descriptions of N observations (dataset columns, or one array), for goals given in words; a list
  of `hiwm.envs.captions.Caption`.
"""
