"""Held-out episodes for the diagnostics, encoded once for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hiwm.levels.level import Level

ENCODED_BYTES = 32 << 20  # largest size of inputs, as float32, that are encoded at once
MAX_INPUTS = 1024  # numbers of one time step with which latents are compared; most images have more


@dataclass(frozen=True)
class Episodes:
    """Evenly spaced time steps of some held-out episodes.

    Args:
        inputs: named inputs of the level, each (B, T, ...).
        state: columns of the true state at the same time steps, (B, T, C).
        level_number: number of the level, 0 for the lowest.
    """

    inputs: Mapping[str, Tensor]
    state: Tensor
    level_number: int

    def encoded(self, level: Level) -> EncodedEpisodes:
        """The same time steps with the level's latents."""
        size = 4 * sum(int(x[0].numel()) for x in self.inputs.values())  # of one episode
        step = max(1, ENCODED_BYTES // size)
        blocks = [
            level.encode({name: x[i : i + step] for name, x in self.inputs.items()})
            for i in range(0, len(self.state), step)
        ]
        few = sum(math.prod(value.shape[2:]) for value in self.inputs.values()) <= MAX_INPUTS
        seen = level.join_inputs(self.inputs) if few else None
        return EncodedEpisodes(self.inputs, self.state, self.level_number, torch.cat(blocks), seen)


@dataclass(frozen=True)
class EncodedEpisodes(Episodes):
    """Episodes with the latents of one level.

    Args:
        latent: latents of the level, (B, T, D).
        seen: the inputs as its encoder gets them, side by side, (B, T, X); None if a time step has more than 1024 numbers, as images have.
    """

    latent: Tensor
    seen: Tensor | None

    @cached_property
    def rows(self) -> Tensor:
        """The latents of all time steps, (B * T, D)."""
        return self.latent.flatten(0, 1)

    @cached_property
    def spectrum(self) -> Tensor:
        """Eigenvalues of the latent's covariance, ascending, (D,)."""
        return spectrum(self.rows)


def spectrum(rows: Tensor) -> Tensor:
    """Eigenvalues of the covariance of (N, D), ascending, in double precision, (D,)."""
    return torch.linalg.eigvalsh(torch.cov(rows.double().T).reshape(rows.shape[1], -1)).clamp_min(0)
