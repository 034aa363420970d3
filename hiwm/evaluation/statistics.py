"""Confidence intervals of success rates and of their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 2000  # of a bootstrap


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927), as fractions.

    Unlike the normal interval, it also covers true rates near 0 and 1.
    """
    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def outcomes_of(agents: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Success of every seed, task and episode, (seeds, tasks, episodes)."""
    return np.array([[task["solved"] for task in agent["per_task"].values()] for agent in agents], float)


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of values (seeds, tasks, episodes) by a stratified bootstrap."""
    seeds, tasks, episodes = values.shape
    rng = np.random.default_rng(0)
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        seed = rng.integers(seeds, size=seeds)[:, None, None]
        episode = rng.integers(episodes, size=(seeds, tasks, episodes))
        means[i] = values[seed, np.arange(tasks)[None, :, None], episode].mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
