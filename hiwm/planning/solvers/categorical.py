"""Cross-entropy method for discrete actions: independent categorical distributions over one-hot vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hiwm.checks import at_least, within
from hiwm.planning.solvers.solver import Proposal, Scores, Solver, share_of, take


class CategoricalCEM(Solver[Tensor]):
    """p' = smoothing p + (1 - smoothing) elite frequencies (smoothed updating, de Boer et al. 2005).

    Each of the C choices is one of F options. Candidates are one-hot vectors, (B, S, C, F), like the actions that the
    predictor was trained on. The `mean` of the proposal holds the probabilities of the options: they are not negative and
    need not sum to 1. Its `std` and bounds are not used. The most likely options are a candidate in every round. A guess
    stands for its largest option.

    Args:
        iterations: rounds.
        elite_share: share of the candidates whose frequencies are used (at least 2).
        smoothing: weight of the old probabilities in the new ones; above 0, no option is ever given up.
    """

    def __init__(self, *, iterations: int = 3, elite_share: float = 0.15, smoothing: float = 0.3) -> None:
        at_least("CategoricalCEM.", 1, iterations=iterations)
        within("CategoricalCEM.", "(0, 1]", elite_share=elite_share)
        within("CategoricalCEM.", "[0, 1)", smoothing=smoothing)
        self.iterations = iterations
        self.elite_share = elite_share
        self.smoothing = smoothing
        self._checked = False

    def start(self, proposal: Proposal) -> Tensor:
        """The probabilities, (B, C, F)."""
        total = proposal.mean.sum(-1, keepdim=True)
        looks = not self._checked or total.device.type == "cpu"  # on a GPU only once, because to look is to wait
        self._checked = True
        if looks and ((proposal.mean < 0).any() or not (total > 0).all()):
            raise ValueError(
                "CategoricalCEM: the mean of the proposal has negative numbers or options that sum to 0; expected probabilities of "
                "discrete options. For continuous actions, set planner.solver to cem"
            )
        return proposal.mean / total

    def draw(self, proposal: Proposal, state: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """See `Solver`."""
        shape = (len(state), samples, *state.shape[1:])
        # The option whose exponential time, with the probability as its rate, is the shortest is a draw from the categorical
        # distribution; `project` makes it a one-hot vector. Without noise, the most likely option results.
        time = torch.empty(shape, device=generator.device).exponential_(generator=generator).to(state)
        time[:, 0] = 1
        return state.unsqueeze(1) / time.clamp_min(torch.finfo(time.dtype).tiny)

    def project(self, proposal: Proposal, candidates: Tensor) -> Tensor:
        """To one-hot vectors."""
        return likeliest(candidates)

    def elites(self, samples: int) -> int:
        """See `Solver`."""
        return share_of(samples, self.elite_share)

    def update(self, proposal: Proposal, state: Tensor, candidates: Tensor, scores: Scores, elite: Tensor) -> Tensor:
        """See `Solver`."""
        return torch.lerp(take(candidates, elite).mean(1), state, self.smoothing)

    def recentre(self, proposal: Proposal, actions: Tensor) -> Proposal:
        """Half of the probability goes to the actions, because all of it would leave nothing to search."""
        mean = (proposal.mean / proposal.mean.sum(-1, keepdim=True) + actions) / 2
        return Proposal(mean, proposal.std, proposal.low, proposal.high)


def likeliest(values: Tensor) -> Tensor:
    """The option with the largest value as a one-hot vector, (..., F) -> (..., F)."""
    return F.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)
