"""The interface of search methods, and the loop that all of them share."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from hiwm.planning.noise import EpisodeNoise

State = TypeVar("State")

#: forward passes that a forward and a backward pass together take: the backward pass takes about two
GRADIENT_PASSES = 3


@dataclass(frozen=True)
class Scores:
    """Costs and constraint violations of S candidates for each of B environments.

    Args:
        cost: lower is better, (B, S); NaN counts as inf.
        violation: of K constraints, (B, S, K): positive if violated, at most 0 if satisfied; None without constraints.
            Values below 0 (the slack) may be clamped to 0, but the multipliers of the augmented Lagrangian then never fall.
    """

    cost: Tensor
    violation: Tensor | None = None

    def without_nan(self) -> Scores:
        """The same with inf, the worst score, in place of NaN."""

        def clean(x: Tensor) -> Tensor:
            return torch.where(x.isnan(), torch.inf, x)

        return Scores(clean(self.cost), None if self.violation is None else clean(self.violation))

    def penalised(self) -> Tensor:
        """One number that ranks the candidates of an environment, (B, S): the penalty of Deb (2000), which has no parameter.

        A feasible candidate has its cost; any other has the highest cost of a feasible one plus its total violation.
        """
        if self.violation is None:
            return self.cost
        total = total_violation(self.violation)
        feasible = total <= 0
        worst = torch.where(feasible & self.cost.isfinite(), self.cost, -torch.inf).amax(1, keepdim=True).detach()
        return torch.where(feasible, self.cost, torch.where(worst.isfinite(), worst, 0) + total)

    def order(self, number: int) -> Tensor:
        """Indices of the best candidates, best first, (B, number)."""
        return self.penalised().topk(number, dim=1, largest=False).indices

    def take(self, index: Tensor) -> Scores:
        """Scores of some of the candidates, indices (B, N)."""
        return Scores(take(self.cost, index), None if self.violation is None else take(self.violation, index))


#: what a search minimises: candidates (B, S, C, F) -> their scores
Objective = Callable[[Tensor], Scores]


@dataclass(frozen=True)
class Proposal:
    """Where a search begins: an independent Gaussian for each of F numbers in C choices.

    Args:
        mean: (B, C, F); for a discrete choice the probabilities of its F options.
        std: (B, C, F).
        low: lower bounds that candidates are clamped to, broadcast against (B, C, F).
        high: upper bounds, likewise.
        guesses: candidates of the first round that replace random ones, best first, (B, G, C, F).
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    guesses: Tensor | None = None

    def with_guesses(self, guesses: Tensor) -> Proposal:
        """The same with more guesses (B, G, C, F), after those it has, and with bounds wide enough for them."""
        low, high = torch.minimum(self.low, guesses.amin(1)), torch.maximum(self.high, guesses.amax(1))
        if self.guesses is not None:
            guesses = torch.cat([self.guesses, guesses], 1)
        return Proposal(self.mean, self.std, low, high, guesses)


@dataclass(frozen=True)
class Solution:
    """The result of a search.

    Args:
        actions: the best candidate of all rounds, (B, C, F): the least total violation, among equals the least cost (Deb 2000).
        cost: of these actions, (B,).
        violation: of these actions, (B, K); None without constraints.
        kept: guesses for the next search, best first, (B, G, C, F): the actions, and further candidates of some methods.
        multipliers: of the constraints, (B, K); None unless the method computes them.
    """

    actions: Tensor
    cost: Tensor
    violation: Tensor | None
    kept: Tensor
    multipliers: Tensor | None = None

    def copy(self) -> Solution:
        """Copies of all tensors. Those made in inference mode would allow no gradient and no change in place."""
        own = {name: value.clone() for name, value in vars(self).items() if value is not None}
        return replace(self, **own)


class Solver(ABC, Generic[State]):
    """A search method, batched over environments: how to draw candidates, and how their scores change the next draw.

    Attributes:
        iterations: rounds of candidates in one search.
        min_samples: candidates that a round needs at least.
        differentiates: whether it needs the gradient of the cost with respect to the candidates.
    """

    iterations: int
    min_samples: int = 4
    differentiates: bool = False

    @property
    def cost_in_rounds(self) -> float:
        """What one search costs, in rounds of `samples` rollouts: rollouts of the predictor divided by `samples`."""
        return float(self.iterations)

    @abstractmethod
    def start(self, proposal: Proposal) -> State:
        """The state before the first round."""

    @abstractmethod
    def draw(self, proposal: Proposal, state: State, samples: int, noise: EpisodeNoise) -> Tensor:
        """Candidates of a round, (B, at most `samples`, C, F). The first one of the first round is the proposal's mean."""

    @abstractmethod
    def update(self, proposal: Proposal, state: State, candidates: Tensor, scores: Scores, elite: Tensor) -> State:
        """The state after a round.

        Args:
            proposal: where the search began.
            state: before the round.
            candidates: of the round, within bounds, (B, S, C, F).
            scores: of the candidates, without NaN.
            elite: indices of the `elites(S)` best candidates, best first, (B, N).
        """

    def elites(self, samples: int) -> int:
        """How many of the best candidates of a round `update` gets."""
        return 1

    def project(self, proposal: Proposal, candidates: Tensor) -> Tensor:
        """The nearest candidates within the bounds. The default clamps them."""
        low, high = (bound.expand_as(proposal.mean).unsqueeze(1) for bound in (proposal.low, proposal.high))
        return candidates.clamp(low, high)

    def recentre(self, proposal: Proposal, actions: Tensor) -> Proposal:
        """The proposal for another search that starts at actions (B, C, F)."""
        return Proposal(actions, proposal.std, proposal.low, proposal.high)

    def finish(self, solution: Solution, state: State) -> Solution:
        """Complete the solution from the state after the last round; by default it stays as it is."""
        return solution

    def solve(
        self,
        objective: Objective,
        proposal: Proposal,
        samples: int,
        noise: EpisodeNoise,
        stop_at: float = math.inf,
    ) -> Solution:
        """Search, round after round.

        Args:
            objective: what to minimise; called once in each round.
            proposal: where to begin.
            samples: candidates S of a round.
            noise: source of all randomness.
            stop_at: time limit, on the clock of `time.perf_counter`. There is always a first round. Another one follows if it
                would end in time, given that it takes as long as the last one.

        Returns:
            The best of all candidates.
        """
        state, best = self.start(proposal), None
        # inference mode saves the bookkeeping of autograd: 4 % of a search for one environment
        with torch.enable_grad() if self.differentiates else torch.inference_mode():
            for index in range(self.iterations):
                began = time.perf_counter()
                candidates = self.draw(proposal, state, samples, noise)
                if index == 0 and proposal.guesses is not None:
                    candidates = _insert(candidates, proposal.guesses)
                candidates = self.project(proposal, candidates).detach().requires_grad_(self.differentiates)
                scores = objective(candidates).without_nan()
                elite = scores.order(self.elites(candidates.shape[1]))
                state = self.update(proposal, state, candidates, scores, elite)
                best = better(best, best_of(candidates, scores, elite[:, :1]))
                if stop_at < math.inf:
                    best.cost.sum().item()  # waits for the device, so that the measured time is right
                    now = time.perf_counter()
                    if 2 * now - began > stop_at:
                        break
        assert best is not None, "checked: there is a first round"
        return self.finish(best, state).copy()


def take(values: Tensor, index: Tensor) -> Tensor:
    """Values of some of the candidates: (B, S, ...), indices (B, N) -> (B, N, ...)."""
    return values[torch.arange(len(index), device=index.device).unsqueeze(1), index]


def _insert(candidates: Tensor, guesses: Tensor) -> Tensor:
    """Replace candidates (B, S, C, F) from the second one on by guesses (B, G, C, F), as many as fit."""
    guesses = guesses[:, : candidates.shape[1] - 1]
    return torch.cat([candidates[:, :1], guesses, candidates[:, 1 + guesses.shape[1] :]], 1)


def total_violation(violation: Tensor) -> Tensor:
    """Summed over the constraints, (..., K) -> (...)."""
    return violation.clamp_min(0).sum(-1)


def share_of(samples: int, share: float) -> int:
    """Number of elites for a share of the candidates: at least 2, because one has no standard deviation."""
    return min(samples, max(2, round(share * samples)))


def best_of(candidates: Tensor, scores: Scores, index: Tensor) -> Solution:
    """The best candidate of a round, given the index of the one with the lowest penalised cost, (B, 1)."""
    if scores.violation is not None:
        # exact: in the penalised cost a small violation may be rounded away
        total = total_violation(scores.violation)
        least = total == total.amin(1, keepdim=True)
        finite = scores.cost.clamp(max=torch.finfo(scores.cost.dtype).max)  # or inf would equal what is masked
        index = torch.where(least, finite, torch.inf).argmin(1, keepdim=True)
    actions, chosen = take(candidates, index).detach(), scores.take(index)
    violation = None if chosen.violation is None else chosen.violation.squeeze(1).detach()
    return Solution(actions.squeeze(1), chosen.cost.squeeze(1).detach(), violation, actions)


def better(old: Solution | None, new: Solution) -> Solution:
    """The better of two solutions in every environment; the old one if they are equal."""
    if old is None:
        return new
    wins = new.cost < old.cost
    violation = None
    if old.violation is not None and new.violation is not None:
        before, after = total_violation(old.violation), total_violation(new.violation)
        wins = (after < before) | ((after == before) & wins)
        violation = torch.where(wins.unsqueeze(1), new.violation, old.violation)
    actions = torch.where(wins[:, None, None], new.actions, old.actions)
    return Solution(actions, torch.where(wins, new.cost, old.cost), violation, actions.unsqueeze(1))
