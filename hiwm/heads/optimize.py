"""The data, the settings and the training loop that all heads with a network share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hiwm.console import Bar
from hiwm.data.columns import read_rows, release
from hiwm.data.store import Trajectories
from hiwm.heads.head import Head
from hiwm.settings import Settings

H = TypeVar("H", bound=Head)

# largest size of a column that is kept on the device; the rows of a larger one are read on demand
RESIDENT_BYTES = 16 << 20
MEASURED = 8_192  # largest number of rows for the statistics of a goal, and for measuring a fitted head


class FitConfig(Settings):
    """The keys that all heads with a network share; each head has its own section of the configuration.

    Args:
        width: units of a hidden layer.
        depth: hidden layers.
        steps: optimiser steps.
        batch: latents in a step.
        learning_rate: peak of a one-cycle schedule.
    """

    width: int = Field(ge=1)
    depth: int = Field(ge=1)
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(ge=0)


class DeviceColumn:
    """A column (N, ...) whose rows are found on the device, so that memory does not grow with the dataset.

    A small column is kept there, so that a step neither copies nor waits.

    Args:
        column: a column of a dataset, or an array.
        device: device of the returned rows.
    """

    def __init__(self, column: Any, device: torch.device) -> None:
        self.column, self.device, self.shape = column, device, tuple(column.shape)
        small = math.prod(self.shape) * column.dtype.itemsize <= RESIDENT_BYTES
        self.kept = torch.from_numpy(np.array(column)).to(device) if small else None

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Row numbers (...) on the device -> (..., *shape[1:])."""
        if self.kept is not None:
            return self.kept[rows]
        found = np.array(read_rows(self.column, rows.cpu().numpy(), kept=0))
        release(self.column)
        return torch.from_numpy(found).to(self.device)


class EpisodeRows:
    """Rows of episodes that are followed by `period` more rows of their episode, in order; a few numbers for each episode.

    Args:
        episodes: one or more episodes.
        period: number of rows that follow; 0 for all rows.
        device: device of the row numbers.
    """

    def __init__(self, episodes: Trajectories, period: int, device: torch.device) -> None:
        counts = episodes.starts_per_episode(period)
        ends = np.cumsum(counts)
        self.length = int(ends[-1])
        self.ends = torch.from_numpy(ends).to(device)
        self.shift = torch.from_numpy(np.asarray(episodes.ep_offset, np.int64) - (ends - counts)).to(device)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: Tensor) -> Tensor:
        """The row of each number from 0 to len - 1, (...) -> (...)."""
        return number + self.shift[torch.searchsorted(self.ends, number, right=True)]

    def spread(self, most: int) -> Tensor:
        """At most `most` of the rows, evenly spaced."""
        number = min(self.length, most)
        return self[
            torch.linspace(0, max(0, self.length - 1), number, dtype=torch.float64, device=self.ends.device).long()
        ]


class FitData:
    """The cached latents of one level, split into training and held-out episodes, to fit one head to.

    Everything small is on the device, including row numbers and draws.

    Args:
        latents: the level's cache, columns `latent` (N, D) and `action` (N, A).
        validation: share of the episodes held out.
        seed: seed of the initial weights and of all draws.
        device: device of the tensors and the head.

    Attributes:
        latent: latents of all episodes, (N, D).
        training, held_out: the two parts of the cache.
        generator: generator of all draws, of the device.
    """

    def __init__(self, latents: Trajectories, *, validation: float, seed: int, device: torch.device) -> None:
        self.latents, self.seed, self.device = latents, seed, device
        self.training, self.held_out = latents.split(validation)
        self.latent = self.column("latent")
        self.generator = torch.Generator(device).manual_seed(seed)

    def column(self, name: str) -> DeviceColumn:
        """A column of the cache, (N, ...)."""
        return DeviceColumn(self.latents.column(name), self.device)

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array on the device."""
        return torch.from_numpy(array).to(self.device)

    def rows(self, episodes: Trajectories, period: int = 0) -> EpisodeRows:
        """Rows of the training or the held-out episodes that are followed by `period` more rows of their episode."""
        return EpisodeRows(episodes, period, self.device)

    def starts(self, period: int) -> EpisodeRows:
        """Rows of the training episodes from which a step of `period` rows can be taken.

        Raises:
            ValueError: no episode is longer than `period` rows.
        """
        check_length(self.training, period)
        return self.rows(self.training, period)

    def new(self, kind: type[H], config: FitConfig, **arguments: int | float) -> H:
        """An unfitted head for these latents, with the width and depth of the config, on the device."""
        torch.manual_seed(self.seed)
        head = kind(dim_latent=self.latent.shape[1], width=config.width, depth=config.depth, **arguments)
        return head.to(self.device)

    def draw(self, rows: EpisodeRows, number: int) -> Tensor:
        """Draw rows (number,), with replacement."""
        return rows[torch.randint(len(rows), (number,), generator=self.generator, device=self.device)]

    def minimize(
        self, loss: Callable[[Tensor], Tensor], head: Head, rows: EpisodeRows, config: FitConfig, label: str
    ) -> None:
        """Fit the head with AdamW and a one-cycle schedule, then freeze it.

        Args:
            loss: loss, a number, of a batch of rows (B,).
            head: holds the parameters that the loss depends on.
            rows: rows that batches are drawn from.
            config: batch, steps and learning rate.
            label: name in the progress bar.
        """
        optimizer = torch.optim.AdamW(
            head.parameters(), lr=config.learning_rate, fused=self.device.type == "cuda" or None
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps + 1)
        with Bar(label, config.steps, "steps") as bar:
            for step in range(config.steps):
                optimizer.zero_grad(set_to_none=True)
                loss(self.draw(rows, config.batch)).backward()
                optimizer.step()
                schedule.step()
                bar.update(step + 1)
        head.eval().requires_grad_(False)


def check_length(episodes: Trajectories, period: int) -> None:
    """Refuse episodes of which none is longer than `period` rows, the rows in one step of the level."""
    longest = int(episodes.ep_len.max())
    if longest <= period:
        raise ValueError(
            f"{episodes.path}: the longest episode has {longest} rows; expected more than {period}, the rows in one step of the level"
        )
