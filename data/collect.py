"""Collection through gymnasium vector environments."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv

from hiwm.data.policies import Policy
from hiwm.data.vector import make_vector

Episode = dict[str, np.ndarray]


@dataclass(frozen=True)
class Collection:
    """What to collect.

    Args:
        make_env: makes one environment (picklable); its observations are one array, or a dict of named arrays.
        make_policy: makes the behaviour policy (picklable).
        episodes: number of episodes.
        steps: rows of an episode; an episode that terminates is shorter.
        seed: episode e is seeded by (seed, e) alone, so neither `workers` nor `num_envs` changes the data.
        column: name given to observations that are one array.
        num_envs: environments stepped together in a worker.
    """

    make_env: Callable[[], gymnasium.Env]
    make_policy: Callable[[], Policy]
    episodes: int
    steps: int
    seed: int
    column: str
    num_envs: int = 10


def collect(collection: Collection, workers: int) -> Iterator[Episode]:
    """Episodes in order: column name -> (steps, ...)."""
    chunks = np.array_split(np.arange(collection.episodes), -(-collection.episodes // collection.num_envs))
    if workers == 1:
        for chunk in chunks:
            yield from _collect_chunk(collection, chunk)
        return
    # spawn: forking a process that already runs torch's threads may hang
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for episodes in pool.imap(partial(_collect_chunk, collection), chunks):
            yield from episodes


_vector_env: tuple[Callable, SyncVectorEnv] | None = None  # environments are slow to build: a worker keeps its own


def _environments(collection: Collection) -> SyncVectorEnv:
    global _vector_env
    if _vector_env is None or _vector_env[0] != collection.make_env:
        _vector_env = (collection.make_env, make_vector(collection.make_env, collection.num_envs))
    return _vector_env[1]


def _collect_chunk(collection: Collection, episodes: np.ndarray) -> list[Episode]:
    envs = _environments(collection)
    # a last, smaller chunk fills the remaining environments with copies that are thrown away
    padded = np.resize(episodes, envs.num_envs)
    seeds = [int(np.random.SeedSequence([collection.seed, e]).generate_state(1)[0]) for e in padded]
    policy = collection.make_policy()
    if not isinstance(envs.single_action_space, gymnasium.spaces.Box):
        raise ValueError(f"the action space is {envs.single_action_space}; allowed: a Box")
    policy.reset(seeds, envs.single_action_space, collection.steps)
    observations, infos = envs.reset(seed=list[int | None](seeds))
    lengths = np.full(len(padded), collection.steps)
    rows: list[dict[str, Any]] = []
    for step in range(collection.steps):
        actions = policy.act(observations, infos, step)
        row = observations if isinstance(observations, dict) else {collection.column: observations}
        rows.append({name: np.array(value) for name, value in row.items()} | {"action": np.array(actions)})
        observations, _, _, _, infos = envs.step(actions)
        ended = infos["ended"]
        # the row after the last step holds the final observation; its action leads nowhere
        lengths = np.where(ended, np.minimum(lengths, step + 2), lengths)
        if (lengths <= step + 1).all():
            break
    columns = {name: np.stack([row[name] for row in rows], 1) for name in rows[0]}  # (B, steps, ...)
    columns = {name: c.astype(np.float32) if c.dtype == np.float64 else c for name, c in columns.items()}
    return [{name: c[i, : lengths[i]] for name, c in columns.items()} for i in range(len(episodes))]
