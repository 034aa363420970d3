"""Data collection in gymnasium vector environments."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from hiwm.data.policies import Policy
from hiwm.data.vector import make_vector

Episode = dict[str, np.ndarray]
IN_FLIGHT = 2  # chunks that each worker may be ahead of the one that is written


@dataclass(frozen=True)
class Collection:
    """What to collect.

    Args:
        make_env: makes one environment; picklable. Observations are one array or a dict of named arrays.
        make_policy: makes the behaviour policy; picklable.
        episodes: number of episodes.
        steps: rows per episode; an episode that terminates is shorter.
        seed: the seed of episode e depends on (seed, e) alone, so `workers` and `num_envs` do not change the data.
        column: column name of observations that are one array.
        num_envs: environments that a worker steps together.
    """

    make_env: Callable[[], gymnasium.Env]
    make_policy: Callable[[], Policy]
    episodes: int
    steps: int
    seed: int
    column: str
    num_envs: int = 10


def end_repeated_script() -> None:
    """End a worker that runs the main script again, because its calls are not guarded; the main process says so."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # what multiprocessing checks too
        raise SystemExit(1)


def collect(collection: Collection, workers: int, first: int = 0) -> Iterator[Episode]:
    """Yield the episodes in order, starting with number `first`; each is a dict: column name -> (steps, ...)."""
    end_repeated_script()
    left = np.arange(first, collection.episodes)
    if not len(left):
        return
    chunks = np.array_split(left, -(-len(left) // collection.num_envs))
    if workers == 1:
        worker = _Worker(collection)
        for chunk in chunks:
            yield from worker(chunk)
        worker.envs.close()
        return
    yield from _in_workers(collection, chunks, workers)


def _in_workers(collection: Collection, chunks: list[np.ndarray], workers: int) -> Iterator[Episode]:
    # spawn, because forking a process that already runs torch threads may hang
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(chunks)), spawn, _start_worker, (collection,))
    running: deque[Future[list[Episode]]] = deque()
    try:
        for chunk in chunks:
            running.append(pool.submit(_work, chunk))
            if len(running) == IN_FLIGHT * workers:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()
    except BrokenProcessPool as error:
        raise ValueError(
            f"dataset.workers is {workers}, and a worker process ended without a result. It was out of memory, or the script that "
            'runs has no `if __name__ == "__main__":` around its calls, which every worker repeats. Add it, or set '
            "dataset.workers=1"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Worker:
    """Collects chunks of episodes. It keeps its environments, because they are slow to build."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.envs = make_vector(collection.make_env, collection.num_envs)

    def __call__(self, episodes: np.ndarray) -> list[Episode]:
        return _collect_chunk(self.collection, self.envs, episodes)


_collection: Collection | None = None  # what a process of the pool collects
_worker: _Worker | None = None  # one per process of the pool


def _start_worker(collection: Collection) -> None:
    global _collection
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _collection = collection


def _end_with_parent() -> None:
    """Exit when the parent dies; otherwise the worker would wait forever for its next chunk."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "the process that owns the pool has started this one"
    parent.join()
    os._exit(1)


def _work(episodes: np.ndarray) -> list[Episode]:
    global _worker
    assert _collection is not None, "the pool starts its workers"
    if _worker is None:
        try:
            _worker = _Worker(_collection)
        except Exception as error:  # the pool would start a worker that fails in its initialiser again and again
            raise ValueError(
                f"the environment cannot be made in a worker process: {type(error).__name__}: {error}. Set dataset.workers=1 to "
                "collect in the main process"
            ) from error
    return _worker(episodes)


def _seeds(collection: Collection, episodes: np.ndarray, stream: int) -> list[int]:
    """Seeds of episodes, for the environment (stream 0) or the policy (stream 1)."""
    return [int(np.random.SeedSequence([collection.seed, e, stream]).generate_state(1)[0]) for e in episodes]


def _collect_chunk(collection: Collection, envs: VectorEnv, episodes: np.ndarray) -> list[Episode]:
    # copies fill the surplus environments of a smaller last chunk and are thrown away
    padded = np.resize(episodes, envs.num_envs)
    policy = collection.make_policy()
    space: Any = envs.single_action_space  # flat, see `make_vector`
    policy.reset(_seeds(collection, padded, 1), space, collection.steps)
    seeds: Any = _seeds(collection, padded, 0)  # VectorEnv's type of `seed` omits lists
    observations, infos = envs.reset(seed=seeds)
    lengths = np.full(len(padded), collection.steps)
    rows: list[dict[str, Any]] = []
    for step in range(collection.steps):
        actions = policy.act(observations, infos, step)
        row = observations if isinstance(observations, dict) else {collection.column: observations}
        rows.append({name: np.array(value) for name, value in row.items()} | {"action": _stored(actions, space)})
        observations, _, _, _, infos = envs.step(actions)
        ended = infos["ended"]
        # one more row holds the final observation; its action is never executed
        lengths = np.where(ended, np.minimum(lengths, step + 2), lengths)
        if (lengths <= step + 1).all():
            break
    columns = {name: np.stack([row[name] for row in rows], 1) for name in rows[0]}  # (B, steps, ...)
    columns = {name: c.astype(np.float32) if c.dtype == np.float64 else c for name, c in columns.items()}
    return [{name: c[i, : lengths[i]] for name, c in columns.items()} for i in range(len(episodes))]


def _stored(actions: np.ndarray, space: gymnasium.spaces.Box | gymnasium.spaces.Discrete) -> np.ndarray:
    """Actions as stored: continuous ones (B, A) unchanged, discrete ones (B,) as one-hot vectors (B, n)."""
    return (
        np.array(actions)
        if isinstance(space, gymnasium.spaces.Box)
        else np.eye(int(space.n), dtype=np.float32)[actions]
    )
