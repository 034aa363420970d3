"""The data, the settings and the training loop that all heads with a network share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hiwm.console import Bar
from hiwm.data.store import Trajectories
from hiwm.heads.head import Head
from hiwm.settings import Settings

H = TypeVar("H", bound=Head)


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


class FitData:
    """The cached latents of one level, split into training and held-out episodes, to fit one head to.

    Row numbers stay on the CPU, where they are drawn. They index the tensors on the device.

    Args:
        latents: the level's cache, columns `latent` (N, D) and `action` (N, A).
        validation: share of the episodes held out.
        seed: seed of the initial weights and of all draws.
        device: device of the tensors and the head.

    Attributes:
        latent: latents of all episodes, (N, D).
        training, held_out: the two parts of the cache.
        generator: CPU generator of all draws.
    """

    def __init__(self, latents: Trajectories, *, validation: float, seed: int, device: torch.device) -> None:
        self.latents, self.seed, self.device = latents, seed, device
        self.training, self.held_out = latents.split(validation)
        self.latent = self.column("latent")
        self.generator = torch.Generator().manual_seed(seed)

    def column(self, name: str) -> Tensor:
        """A column of the cache on the device, (N, ...)."""
        return self.tensor(np.array(self.latents.column(name)))

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array on the device."""
        return torch.from_numpy(array).to(self.device)

    def new(self, kind: type[H], config: FitConfig, **arguments: int | float) -> H:
        """An unfitted head for these latents, with the width and depth of the config, on the device."""
        torch.manual_seed(self.seed)
        head = kind(dim_latent=self.latent.shape[1], width=config.width, depth=config.depth, **arguments)
        return head.to(self.device)

    def draw(self, rows: Tensor, number: int) -> Tensor:
        """Draw rows (number,) from rows (N,), with replacement."""
        return rows[torch.randint(len(rows), (number,), generator=self.generator)]

    def minimize(
        self, loss: Callable[[Tensor], Tensor], head: Head, rows: Tensor, config: FitConfig, label: str
    ) -> None:
        """Fit the head with AdamW and a one-cycle schedule, then freeze it.

        Args:
            loss: loss, a number, of a batch of rows (B,).
            head: holds the parameters that the loss depends on.
            rows: rows (N,) that batches are drawn from.
            config: batch, steps and learning rate.
            label: name in the progress bar.
        """
        optimizer = torch.optim.AdamW(head.parameters(), lr=config.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps + 1)
        with Bar(label, config.steps, "steps") as bar:
            for step in range(config.steps):
                optimizer.zero_grad(set_to_none=True)
                loss(self.draw(rows, config.batch)).backward()
                optimizer.step()
                schedule.step()
                bar.update(step + 1)
        head.eval().requires_grad_(False)


def starts(episodes: Trajectories, period: int) -> np.ndarray:
    """Rows from which one step of a level can be taken, (N,).

    Args:
        episodes: a level's cache.
        period: environment steps (rows) in one step of the level.

    Raises:
        ValueError: no episode is longer than `period` rows.
    """
    rows = episodes.starts(period)
    if not len(rows):
        longest = int(episodes.ep_len.max())
        raise ValueError(
            f"{episodes.path}: the longest episode has {longest} rows; expected more than {period}, the rows in one step of the level"
        )
    return rows
