"""Confidence intervals of success rates and of their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 2000  # of a bootstrap
FEW = 10  # episodes of a task


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


def bootstrap_interval(values: np.ndarray, lowest: float = -1.0, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of values (seeds, tasks, episodes) by a stratified bootstrap.

    Episodes are resampled within each seed and task, or over all tasks of a seed if a task has few episodes, because a task whose few
    episodes agree would add no width. Where all values agree, the margin is that of a Wilson interval.

    Args:
        values: differences of success, or success.
        lowest: smallest possible mean: -1 for differences, 0 for success.
        confidence: probability that the interval should cover the mean.
    """
    if values.min() == values.max():
        margin, mean = wilson_interval(0, values.size)[1], float(values.mean())
        return max(lowest, mean - margin), min(1.0, mean + margin)
    if values.shape[2] < FEW:
        values = values.reshape(len(values), 1, -1)
    seeds, tasks, episodes = values.shape
    rng = np.random.default_rng(0)
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        seed = rng.integers(seeds, size=seeds)[:, None, None]
        episode = rng.integers(episodes, size=(seeds, tasks, episodes))
        means[i] = values[seed, np.arange(tasks)[None, :, None], episode].mean()
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def interval_over_tasks(rates: np.ndarray, episodes: int) -> tuple[float, float]:
    """95 % interval of the mean of success rates (seeds, tasks), had other seeds, tasks and episodes been drawn, by a bootstrap.

    A few tasks decide on the width, so it is far wider than that of a Wilson interval over all episodes, which takes them for
    independent. Where all rates are 0 or all are 1, the interval is that of Wilson.

    Args:
        rates: success of every seed and task, as fractions.
        episodes: of each.
    """
    if rates.min() == rates.max() and rates.min() in (0, 1):
        return wilson_interval(round(rates.mean() * rates.size * episodes), rates.size * episodes)
    (seeds, tasks), rng = rates.shape, np.random.default_rng(0)
    seed, task = rng.integers(seeds, size=(RESAMPLES, seeds, 1)), rng.integers(tasks, size=(RESAMPLES, 1, tasks))
    means = rng.binomial(episodes, rates[seed, task]).mean((1, 2)) / episodes
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
