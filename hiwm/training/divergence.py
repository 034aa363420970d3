"""Notices a training that diverges, before its weights are saved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from hiwm.data.clips import ClipSampler
from hiwm.levels.distributed import average_over_processes
from hiwm.training.wrapping import own

LARGEST_LOSS = 1e8  # inputs are standardised, so losses of a training that works are far below
NAMED_ROWS = 8


class Diverged(ValueError):
    """The loss of a training is NaN, infinite or far too large."""


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put the name of what is trained in front of the message."""
    try:
        yield
    except Diverged as error:
        raise Diverged(f"{where}: {error}") from error


class DivergenceCheck:
    """Watches one training.

    The norm of the gradient is the same in every process, so all of them stop at the same step. On a GPU it is looked at
    only where the loop waits for the device anyway.

    Args:
        sampler: draws the batches, from (seed, step).
        batch: windows of a batch.
        seed: of the draws.
        device: of the training.
    """

    def __init__(self, sampler: ClipSampler, batch: int, seed: int, device: torch.device) -> None:
        self.sampler, self.batch, self.seed, self.device = sampler, batch, seed, device
        self.first = torch.full((), -1, device=device)  # step of the first gradient that is not finite

    def gradient(self, step: int, norm: Tensor) -> None:
        """Note the norm of the gradient of a step."""
        if self.device.type == "cpu":
            if not math.isfinite(norm.item()):
                self._stop(step, "the norm of the gradient", norm.item())
        else:
            self.first = torch.where((self.first < 0) & ~torch.isfinite(norm), step, self.first)

    def weights(self, step: int, module: nn.Module) -> None:
        """Raise if a step has made a weight, or a gradient before it, that is not finite.

        All processes call it before weights are saved.
        """
        self.check()
        named = module.state_dict()
        finite = torch.stack([torch.isfinite(own(value)).all() for value in named.values()])
        finite = average_over_processes(finite.float()) == 1  # each may have a shard of the weights
        for name, good in zip(named, finite.tolist(), strict=True):  # one wait for a GPU
            if not good:
                self._stop(step, name, math.nan)

    def check(self) -> None:
        """Raise if a gradient was not finite."""
        if self.device.type != "cpu" and (step := int(self.first)) >= 0:
            self._stop(step, "the norm of the gradient", math.nan)

    def losses(self, step: int, values: Mapping[str, float]) -> None:
        """Check the losses that a step led to."""
        self.check()
        for name, value in values.items():
            if not abs(value) <= LARGEST_LOSS:
                self._stop(step, name, value)

    def _stop(self, step: int, what: str, value: float) -> None:
        starts = self.sampler.rows(self.batch, np.random.default_rng([self.seed, step]))
        clip = self.sampler.sample(self.batch, np.random.default_rng([self.seed, step]))
        finite = torch.ones(self.batch, dtype=torch.bool)
        for values in (*clip.inputs.values(), clip.actions):
            finite &= torch.isfinite(values.double()).flatten(1).all(1)
        shown = starts if finite.all() else starts[~finite.numpy()]
        rows = ", ".join(map(str, sorted(shown)[:NAMED_ROWS])) + (", ..." if len(shown) > NAMED_ROWS else "")
        raise Diverged(
            f"{what} is {value:g} at step {step:,}; expected a finite number of at most {LARGEST_LOSS:g}. "
            + (
                f"The batch begins at the rows {rows} of the data. Lower training.learning_rate"
                if finite.all()
                else f"Windows of the batch that begin at the rows {rows} hold values that are not finite. Clean the data"
            )
            + ". The last checkpoint is from an earlier step"
        )
