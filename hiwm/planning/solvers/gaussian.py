"""Independent Gaussians over the choices, and the base of solvers whose state is such a Gaussian."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.solvers.solver import Proposal, Solver, share_of


@dataclass(frozen=True)
class Gaussian:
    """N(mean, std), independent in every environment, choice and number.

    Args:
        mean, std: (B, C, F).
    """

    mean: Tensor
    std: Tensor

    @staticmethod
    def of(proposal: Proposal) -> Gaussian:
        """The Gaussian of a proposal."""
        return Gaussian(proposal.mean, proposal.std)

    def draw(self, samples: int, noise: EpisodeNoise) -> Tensor:
        """Candidates (B, S, C, F); the first one is the mean."""
        drawn = standard_normal(self.mean, samples, noise)
        drawn[:, 0] = 0
        return self.spread(drawn)

    def spread(self, noise: Tensor) -> Tensor:
        """Candidates for standard normal noise, (B, S, C, F) -> (B, S, C, F)."""
        return self.mean.unsqueeze(1) + self.std.unsqueeze(1) * noise


class GaussianSolver(Solver[Gaussian]):
    """A solver that draws from a Gaussian, which begins as the proposal. `update` says how the Gaussian changes.

    Attributes:
        elite_share: share of the candidates that `update` gets as the elite (at least 2); None: only the best one.
    """

    elite_share: float | None = None

    def start(self, proposal: Proposal) -> Gaussian:
        return Gaussian.of(proposal)

    def draw(self, proposal: Proposal, state: Gaussian, samples: int, noise: EpisodeNoise) -> Tensor:
        return state.draw(samples, noise)

    def elites(self, samples: int) -> int:
        return 1 if self.elite_share is None else share_of(samples, self.elite_share)


def standard_normal(like: Tensor, samples: int, noise: EpisodeNoise) -> Tensor:
    """N(0, 1), (B, samples, C, F) for a tensor (B, C, F)."""
    return noise.normal((len(like), samples, *like.shape[1:])).to(like)
