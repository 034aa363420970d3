"""Cross-entropy method for discrete actions: independent categorical distributions over one-hot vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.checks import at_least, within
from hiwm.planning.action_space import likeliest
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.solvers.solver import Proposal, Scores, Solver, share_of, take


class CategoricalCEM(Solver[Tensor]):
    """p' = smoothing p + (1 - smoothing) elite frequencies (smoothed updating, de Boer et al. 2005).

    Each of the C choices is one of F options. Candidates are one-hot vectors, (B, S, C, F), like the actions that the
    predictor was trained on. The `mean` of the proposal holds the probabilities of the options: they are not negative and
    need not sum to 1. The method uses neither its `std` nor its bounds. The most likely options are a candidate in every
    round. A guess counts as its largest option.

    Args:
        iterations: rounds.
        elite_share: share of the candidates whose frequencies are used (at least 2).
        smoothing: weight of the old probabilities in the new ones; above 0, no option is ever given up.
    """

    def __init__(self, *, iterations: int = 3, elite_share: float = 0.15, smoothing: float = 0.3) -> None:
        at_least(1, iterations=iterations)
        within("(0, 1]", elite_share=elite_share)
        within("[0, 1)", smoothing=smoothing)
        self.iterations = iterations
        self.elite_share = elite_share
        self.smoothing = smoothing
        self._checked = False

    def start(self, proposal: Proposal) -> Tensor:
        """The probabilities, (B, C, F)."""
        total = proposal.mean.sum(-1, keepdim=True)
        looks = not self._checked or total.device.type == "cpu"  # on a GPU only once, because reading it synchronises
        self._checked = True
        if looks and ((proposal.mean < 0).any() or not (total > 0).all()):
            raise ValueError(
                "CategoricalCEM gets a proposal with negative numbers or options that sum to 0; expected probabilities of discrete "
                "options. For continuous actions, set planner.solver to cem"
            )
        return proposal.mean / total

    def draw(self, proposal: Proposal, state: Tensor, samples: int, noise: EpisodeNoise) -> Tensor:
        shape = (len(state), samples, *state.shape[1:])
        # Draw an exponential time for each option, with its probability as the rate: the option with the shortest time is a
        # draw from the categorical distribution. `project` makes it a one-hot vector. With equal times, the most likely option wins.
        time = noise.exponential(shape).to(state)
        time[:, 0] = 1
        return state.unsqueeze(1) / time.clamp_min(torch.finfo(time.dtype).tiny)

    def project(self, proposal: Proposal, candidates: Tensor) -> Tensor:
        """The option with the largest number becomes 1, all others 0."""
        return likeliest(candidates)

    def elites(self, samples: int) -> int:
        return share_of(samples, self.elite_share)

    def update(self, proposal: Proposal, state: Tensor, candidates: Tensor, scores: Scores, elite: Tensor) -> Tensor:
        return torch.lerp(take(candidates, elite).mean(1), state, self.smoothing)

    def recentre(self, proposal: Proposal, actions: Tensor) -> Proposal:
        """Half of the probability goes to the actions, because all of it would leave nothing to search."""
        mean = (proposal.mean / proposal.mean.sum(-1, keepdim=True) + actions) / 2
        return Proposal(mean, proposal.std, proposal.low, proposal.high)
