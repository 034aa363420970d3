"""How every small network that is fitted to a trained hierarchy learns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hiwm.console import Bar


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
