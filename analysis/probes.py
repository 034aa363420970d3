"""Probes of a trained hierarchy: R2 of the state from its latents, and correlation of latent distance with time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import Tensor

from hiwm.agent import Agent
from hiwm.analysis.decode import states_at
from hiwm.data.store import Trajectories, open_dataset
from hiwm.training.diagnostics.state_probe import state_probe_r2
from hiwm.training.homes import levels_of

SPANS = (1, 3, 10, 30, 100, 300)  # bins of distance in time, environment steps


@dataclass(frozen=True)
class DistanceTable:
    """Rank correlations of latent distance with time.

    Args:
        spans: bounds of each bin in environment steps, the upper one excluded, (bins,).
        values: one row per level, (levels, bins).
    """

    spans: list[tuple[int, int]]
    values: np.ndarray

    @property
    def centres(self) -> np.ndarray:
        """Geometric middle of each bin, (bins,)."""
        return np.sqrt(np.prod(np.array(self.spans, float), 1))


def sample_latents(
    agent: Agent, dataset: Trajectories, state: list[str], number: int, seed: int = 0
) -> tuple[np.ndarray, list[Tensor]]:
    """States (N, C) and latents of every level, (N, D_k) each, of random rows."""
    rows = np.sort(np.random.default_rng(seed).choice(dataset.num_steps, min(number, dataset.num_steps), replace=False))
    return states_at(dataset, state, rows), _encode(agent, dataset, rows)


def state_probes(agent: Agent, dataset: Trajectories, state: list[str], episodes: int = 200) -> list[dict[str, float]]:
    """R2 of linear and kernel ridge regression from each level's latent to the state, on episodes that were not fitted."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(dataset.ep_len), min(episodes, len(dataset.ep_len)), replace=False)
    moments = np.linspace(0, 1, 16)
    rows = dataset.ep_offset[chosen, None] + np.round(moments * (dataset.ep_len[chosen, None] - 1)).astype(np.int64)
    states = torch.from_numpy(states_at(dataset, state, rows.reshape(-1))).reshape(*rows.shape, -1)
    results = []
    for latent in _encode(agent, dataset, rows.reshape(-1)):
        latent = latent.reshape(*rows.shape, -1)
        results.append({"linear": linear_r2(latent, states), "kernel": state_probe_r2(latent, states)})
    return results


def what_is_kept(agent: Agent, dataset: Trajectories) -> dict[str, list[float]]:
    """Column of the true state -> R2 of kernel ridge regression from each level's latent; image columns are left out."""
    columns = [name for name, column in dataset.columns.items() if name != "action" and column.ndim <= 2]
    return {name: [level["kernel"] for level in state_probes(agent, dataset, [name])] for name in columns}


def linear_r2(latent: Tensor, state: Tensor, ridge: float = 1e-3) -> float:
    """R2 of state (B, T, C) from latent (B, T, D), fitted on the first half of the episodes, measured on the second."""
    half = len(latent) // 2
    z, s, z_test, s_test = (
        x.flatten(0, 1).double().numpy() for x in (latent[:half], state[:half], latent[half:], state[half:])
    )
    return float(r2_score(s_test, Ridge(ridge).fit(z, s).predict(z_test)))


def distance_correlation(agent: Agent, dataset: Trajectories, pairs: int = 2000) -> DistanceTable:
    """Spearman correlation of latent distance with time apart along episodes, within bins of time apart."""
    rng = np.random.default_rng(0)
    longest = int(dataset.ep_len.max())
    spans = [span for span in SPANS if span + 1 < longest]  # a bin with a single time has no ranks
    bins = list(pairwise([*spans, longest]))
    values = np.zeros((len(agent.hierarchy), len(bins)))
    for b, (low, high) in enumerate(bins):
        apart = rng.integers(low, max(low + 1, high), size=pairs)
        fits = [np.flatnonzero(dataset.ep_len > steps) for steps in apart]
        episode = np.array([rng.choice(choice) for choice in fits])
        start = dataset.ep_offset[episode] + (rng.random(pairs) * (dataset.ep_len[episode] - apart)).astype(np.int64)
        near, far = _encode(agent, dataset, start), _encode(agent, dataset, start + apart)
        for k, (a, z) in enumerate(zip(near, far, strict=True)):
            values[k, b] = np.asarray(spearmanr((a - z).norm(dim=1).numpy(), apart))[0]
    return DistanceTable(bins, values)


@torch.no_grad()
def open_loop(agent: Agent, run: Path, level: int, horizon: int, windows: int = 512) -> tuple[list[int], list[float]]:
    """Open-loop error over the error of predicting no change, from a level's cached latents.

    Args:
        agent: the agent.
        run: folder of its experiment, which holds the cached latents.
        level: number of the level that predicts.
        horizon: steps of the level ahead, at most what the episodes allow.
        windows: random starts.

    Returns:
        Environment steps ahead, and the error ratio there.
    """
    cache = open_dataset(levels_of(run) / agent.hierarchy.specs[level].fingerprint / "latents.h5")
    period = agent.hierarchy.periods[level]
    horizon = min(horizon, (int(cache.ep_len.max()) - 1) // period)
    rng = np.random.default_rng(0)
    long_enough = np.flatnonzero(cache.ep_len > horizon * period)
    episode = rng.choice(long_enough, windows)
    start = cache.ep_offset[episode] + (rng.random(windows) * (cache.ep_len[episode] - horizon * period)).astype(
        np.int64
    )
    rows = start[:, None] + np.arange(horizon + 1) * period
    latent = torch.from_numpy(cache.column("latent")[rows])
    actions = torch.from_numpy(cache.column("action")[rows[:, :-1]])
    error = (agent.hierarchy.levels[level].rollout(latent[:, 0], actions) - latent[:, 1:]).square().mean((0, 2))
    unchanged = (latent[:, :1] - latent[:, 1:]).square().mean((0, 2))
    return [period * (i + 1) for i in range(horizon)], (error / unchanged).tolist()


def _encode(agent: Agent, dataset: Trajectories, rows: np.ndarray) -> list[Tensor]:
    return agent.hierarchy.encode_many({name: dataset.column(name) for name in agent.inputs}, rows)
