"""Clips: windows of trajectories that a level trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiwm.data.columns import DatasetError, read_rows
from hiwm.data.trajectories import Trajectories
from hiwm.levels.clip import Clip, Pairs


class ClipSampler:
    """Draws random windows; every possible start of every episode is equally likely.

    Args:
        trajectories: the episodes to draw from, with one row per environment step.
        inputs: columns that the level encodes.
        action: column of the actions of the level below; each action is valid for `action_period` rows.
        horizon: number T of steps of the level in a window.
        stride: actions of the level below per step of the level.
        action_period: environment steps (rows) per action of the level below.
        reach: maximum number of steps of the level below between the two moments of a pair; None for no pairs.

    Raises:
        DatasetError: no episode is long enough for a window.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        *,
        inputs: Sequence[str],
        action: str,
        horizon: int,
        stride: int,
        action_period: int,
        reach: int | None,
    ) -> None:
        self.inputs = {name: trajectories.column(name) for name in inputs}
        self.action = trajectories.column(action)
        self.horizon, self.stride, self.action_period, self.reach = horizon, stride, action_period, reach
        self.period = stride * action_period
        lengths = trajectories.ep_len.astype(np.int64)
        self.ends = trajectories.ep_offset.astype(np.int64) + lengths
        self.num_windows = _cumulative(lengths - horizon * self.period)
        self.num_pairs = _cumulative(lengths - action_period)
        if self.num_windows[-1] == 0:
            raise DatasetError(
                f"{trajectories.path}: a window of {horizon} steps of {self.period} environment steps needs episodes of "
                f"{horizon * self.period + 1} rows; the longest of {len(lengths)} has {lengths.max()}. "
                "Lower the strides or the horizon of the level"
            )

    def sample(self, batch: int, rng: np.random.Generator, share: slice = slice(None)) -> Clip:
        """A clip of `batch` windows, with as many pairs if the sampler has a reach.

        Args:
            batch: windows that are drawn.
            rng: source of the draws.
            share: the windows that are read; the others of the batch belong to other processes.
        """
        starts = self.rows(batch, rng)
        steps = starts[share, None] + np.arange(self.horizon + 1) * self.period  # (B, T+1)
        chunk = np.arange(self.stride) * self.action_period
        return Clip(
            {name: _take(column, steps) for name, column in self.inputs.items()},
            _take(self.action, steps[:, :-1, None] + chunk),
            None if self.reach is None else self._pairs(batch, self.reach, rng, share),
        )

    def rows(self, batch: int, rng: np.random.Generator) -> np.ndarray:
        """First rows of the windows that `sample` draws with this generator, (B,)."""
        return self._draw(self.num_windows, self.horizon * self.period, batch, rng)[0]

    def _pairs(self, batch: int, reach: int, rng: np.random.Generator, share: slice) -> Pairs:
        source, ends = self._draw(self.num_pairs, self.action_period, batch, rng)
        most = np.minimum(reach, (ends - 1 - source) // self.action_period)
        steps = 1 + (rng.random(batch) * most).astype(np.int64)
        source, steps = source[share], steps[share]
        target = source + steps * self.action_period
        return Pairs(
            {name: _take(column, source) for name, column in self.inputs.items()},
            _take(self.action, source),
            {name: _take(column, target) for name, column in self.inputs.items()},
            torch.from_numpy(steps),
        )

    def _draw(
        self, cumulative: np.ndarray, span: int, batch: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Random rows that have at least `span` more rows in their episode, and the end of that episode, (B,) each."""
        flat = rng.integers(cumulative[-1], size=batch)
        episode = np.searchsorted(cumulative, flat, side="right")
        # counted from the end of the episode: exactly `span` rows follow the last possible start
        return self.ends[episode] - span - (cumulative[episode] - flat), self.ends[episode]


def _cumulative(starts: np.ndarray) -> np.ndarray:
    return np.cumsum(np.maximum(starts, 0))


def _take(column: Any, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(read_rows(column, rows))
