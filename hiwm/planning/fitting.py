"""How every small network that is fitted to a trained hierarchy learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hiwm.checks import at_least
from hiwm.console import Bar


@dataclass(frozen=True)
class FitConfig:
    """What all of them have; each is a section of the config.

    Args:
        width: units a hidden layer.
        depth: hidden layers.
        steps: optimiser steps.
        batch: latents in a step.
        learning_rate: peak; a one-cycle schedule.
    """

    section: ClassVar[str]
    width: int = 256
    depth: int = 3
    steps: int = 2000
    batch: int = 1024
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        at_least(f"{self.section}.", 1, width=self.width, depth=self.depth, steps=self.steps, batch=self.batch)
        at_least(f"{self.section}.", 0, learning_rate=self.learning_rate)


def minimize(loss: Callable[[], Tensor], network: nn.Module, steps: int, learning_rate: float, label: str) -> None:
    """AdamW with a one-cycle schedule; the network does not learn any more afterwards.

    Args:
        loss: of a new batch, a number.
        network: whose parameters it depends on.
        steps: of the optimiser.
        learning_rate: its peak.
        label: what the person who waits is told.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps + 1)
    with Bar(label, steps, "steps") as bar:
        for step in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            optimizer.step()
            schedule.step()
            bar.update(step + 1)
    network.eval().requires_grad_(False)
