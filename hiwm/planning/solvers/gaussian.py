"""Independent Gaussians over the choices: the state of the methods that move one towards good candidates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hiwm.planning.solvers.solver import Proposal


@dataclass(frozen=True)
class Gaussian:
    """N(mean, std), independently in every environment and number.

    Args:
        mean, std: (B, C, F).
    """

    mean: Tensor
    std: Tensor

    @staticmethod
    def of(proposal: Proposal) -> Gaussian:
        """The proposal's."""
        return Gaussian(proposal.mean, proposal.std)

    def draw(self, samples: int, generator: torch.Generator) -> Tensor:
        """Candidates (B, S, C, F), the first of which is the mean."""
        noise = standard_normal(self.mean, samples, generator)
        noise[:, 0] = 0
        return self.spread(noise)

    def spread(self, noise: Tensor) -> Tensor:
        """Standard noise (B, S, C, F) -> candidates."""
        return self.mean.unsqueeze(1) + self.std.unsqueeze(1) * noise


def standard_normal(like: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """N(0, 1), (B, samples, C, F) for a (B, C, F), drawn on the generator's device."""
    shape = (len(like), samples, *like.shape[1:])
    return torch.randn(shape, generator=generator, device=generator.device).to(like)
