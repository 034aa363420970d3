"""What a search method is asked and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

#: candidates (B, S, H, A) -> energies (B, S), lower is better
Energy = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Proposal:
    """Where to look: independent Gaussians.

    Args:
        mean: (B, H, A).
        std: (B, H, A).
        low, high: bounds candidates are clamped to, broadcast against (B, H, A).
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Solution:
    """What was found.

    Args:
        actions: the best candidate seen, (B, H, A).
        energy: its energy, (B,).
    """

    actions: Tensor
    energy: Tensor


class Solver(Protocol):
    """A search method. All are batched over environments."""

    @property
    def iterations(self) -> int:
        """Rounds of candidates in one search."""
        ...

    def solve(self, energy: Energy, proposal: Proposal, samples: int, generator: torch.Generator) -> Solution:
        """Search with `samples` candidates a round."""
        ...
