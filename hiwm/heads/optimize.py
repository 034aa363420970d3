"""How every head that is a network learns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from hiwm.console import Bar
from hiwm.settings import Settings


class FitConfig(Settings):
    """The keys that all networks share; each network has its own section of the configuration.

    Args:
        width: units of a hidden layer.
        depth: hidden layers.
        steps: optimiser steps.
        batch: latents in a step.
        learning_rate: peak of a one-cycle schedule.
    """

    width: int = Field(256, ge=1)
    depth: int = Field(3, ge=1)
    steps: int = Field(2000, ge=1)
    batch: int = Field(1024, ge=1)
    learning_rate: float = Field(1e-3, ge=0)


def minimize(loss: Callable[[], Tensor], network: nn.Module, steps: int, learning_rate: float, label: str) -> None:
    """Train with AdamW and a one-cycle schedule, then freeze the network.

    Args:
        loss: draws a batch and returns its loss, a number.
        network: holds the parameters that the loss depends on.
        steps: optimiser steps.
        learning_rate: peak of the schedule.
        label: name in the progress bar.
    """
    on_gpu = next(network.parameters()).device.type == "cuda"
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, fused=on_gpu or None)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps + 1)
    with Bar(label, steps, "steps") as bar:
        for step in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            optimizer.step()
            schedule.step()
            bar.update(step + 1)
    network.eval().requires_grad_(False)
