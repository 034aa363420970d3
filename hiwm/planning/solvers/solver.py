"""What a search method is asked, what it answers, and the loop that all of them share."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

State = TypeVar("State")

#: predictor calls of a forward and a backward pass, in forward passes: the backward pass takes about two
GRADIENT_COST = 3


@dataclass(frozen=True)
class Scores:
    """What candidates are worth.

    Args:
        energy: lower is better, (B, S); not a number counts as inf.
        violation: of K constraints, (B, S, K): positive is forbidden, at most 0 is allowed. How far below 0 (the slack)
            may be told or cut off; without it the augmented Lagrangian's multipliers can only rise. None without constraints.
    """

    cost: Tensor
    violation: Tensor | None = None

    def without_nan(self) -> Scores:
        """Not a number as inf, the worst there is."""

        def clean(x: Tensor) -> Tensor:
            return torch.where(x.isnan(), torch.inf, x)

        return Scores(clean(self.cost), None if self.violation is None else clean(self.violation))

    def penalised(self) -> Tensor:
        """One number to compare a batch's candidates by, (B, S): Deb's penalty (2000), which has no parameter.

        The energy of what is allowed; of what is not, the worst energy of anything allowed plus the total violation.
        """
        if self.violation is None:
            return self.cost
        total = total_violation(self.violation)
        allowed = total <= 0
        worst = torch.where(allowed & self.cost.isfinite(), self.cost, -torch.inf).amax(1, keepdim=True).detach()
        return torch.where(allowed, self.cost, torch.where(worst.isfinite(), worst, 0) + total)

    def order(self, number: int) -> Tensor:
        """The best candidates, best first: indices (B, number)."""
        return self.penalised().topk(number, dim=1, largest=False).indices

    def take(self, index: Tensor) -> Scores:
        """Those of candidates (B, N)."""
        return Scores(take(self.cost, index), None if self.violation is None else take(self.violation, index))


#: candidates (B, S, C, F) -> what they are worth
Objective = Callable[[Tensor], Scores]


@dataclass(frozen=True)
class Proposal:
    """Where to look: C choices of F numbers, independent Gaussians.

    Args:
        mean: (B, C, F); for a discrete choice the probabilities of its F options.
        std: (B, C, F).
        low, high: bounds candidates are clamped to, broadcast against (B, C, F).
        guesses: more candidates, best first, (B, G, C, F): the first round tries them in place of as many random ones.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    guesses: Tensor | None = None


@dataclass(frozen=True)
class Solution:
    """What was found.

    Args:
        actions: the best candidate seen, (B, C, F): least total violation, then least energy (Deb 2000).
        energy: its energy, (B,).
        violation: of its constraints, (B, K); None without any.
        kept: what the next search may begin with, best first, (B, G, C, F): the answer, for some methods more.
        multipliers: of the constraints, (B, K); None unless the method finds them.
    """

    actions: Tensor
    cost: Tensor
    violation: Tensor | None
    kept: Tensor
    multipliers: Tensor | None = None

    def usable(self) -> Solution:
        """Copies of what was made in inference mode, which a gradient could not pass and nothing could change in place."""
        own = {name: value.clone() for name, value in vars(self).items() if value is not None}
        return replace(self, **own)


class Solver(ABC, Generic[State]):
    """A search method, batched over environments. It says how candidates are drawn and what follows from their scores.

    Attributes:
        iterations: rounds of candidates in one search.
        min_samples: candidates a round it needs at least.
        differentiates: whether it needs the energy's gradient with respect to the candidates.
    """

    iterations: int
    min_samples: int = 4
    differentiates: bool = False

    @property
    def cost(self) -> float:
        """Rollouts of the predictor in one search, for each of the `samples` of a round."""
        return float(self.iterations)

    @abstractmethod
    def start(self, proposal: Proposal) -> State:
        """The state before the first round."""

    @abstractmethod
    def draw(self, proposal: Proposal, state: State, samples: int, generator: torch.Generator) -> Tensor:
        """A round's candidates, (B, at most `samples`, C, F); the first of the first round is the proposal's mean."""

    @abstractmethod
    def update(self, proposal: Proposal, state: State, candidates: Tensor, scores: Scores, elite: Tensor) -> State:
        """The state after a round.

        Args:
            proposal: as in `start`.
            state: before.
            candidates: what was tried, (B, S, C, F), within bounds.
            scores: theirs.
            elite: indices of the best `elites(S)` of them, best first, (B, N).
        """

    def elites(self, samples: int) -> int:
        """How many of a round's best candidates `update` is told of."""
        return 1

    def project(self, proposal: Proposal, candidates: Tensor) -> Tensor:
        """To what may be tried: by default the bounds."""
        low, high = (bound.expand_as(proposal.mean).unsqueeze(1) for bound in (proposal.low, proposal.high))
        return candidates.clamp(low, high)

    def recentre(self, proposal: Proposal, actions: Tensor) -> Proposal:
        """The proposal for another search that starts at actions (B, C, F)."""
        return Proposal(actions, proposal.std, proposal.low, proposal.high)

    def finish(self, solution: Solution, state: State) -> Solution:
        """The answer, with what only the state knows."""
        return solution

    def solve(
        self,
        energy: Objective,
        proposal: Proposal,
        samples: int,
        generator: torch.Generator,
        deadline: float = math.inf,
    ) -> Solution:
        """Search: the loop of all methods.

        Args:
            energy: what to make small; called once a round.
            proposal: where to look.
            samples: candidates S a round.
            generator: all randomness.
            deadline: when to stop, in seconds of `time.perf_counter`. There is always a first round, and another one if
                it would end in time, were it as long as the last.

        Returns:
            The best of all candidates.
        """
        state, best = self.start(proposal), None
        # inference mode spares the bookkeeping of every operation: 4 % of a search for one environment
        with torch.enable_grad() if self.differentiates else torch.inference_mode():
            for index in range(self.iterations):
                began = time.perf_counter()
                candidates = self.draw(proposal, state, samples, generator)
                if index == 0 and proposal.guesses is not None:
                    candidates = with_guesses(candidates, proposal.guesses)
                candidates = self.project(proposal, candidates).detach().requires_grad_(self.differentiates)
                scores = energy(candidates).without_nan()
                elite = scores.order(self.elites(candidates.shape[1]))
                state = self.update(proposal, state, candidates, scores, elite)
                best = better(best, best_of(candidates, scores, elite[:, :1]))
                if deadline < math.inf:
                    best.cost.sum().item()  # waits for the device, so that the time is true
                    now = time.perf_counter()
                    if 2 * now - began > deadline:
                        break
        assert best is not None, "checked: there is a first round"
        return self.finish(best, state).usable()


def take(values: Tensor, index: Tensor) -> Tensor:
    """Some candidates' values: (B, S, ...), (B, N) -> (B, N, ...)."""
    return values[torch.arange(len(index), device=index.device).unsqueeze(1), index]


def with_guesses(candidates: Tensor, guesses: Tensor) -> Tensor:
    """Guesses (B, G, C, F) in place of the candidates (B, S, C, F) after the first one, as many as there is room for."""
    guesses = guesses[:, : candidates.shape[1] - 1]
    return torch.cat([candidates[:, :1], guesses, candidates[:, 1 + guesses.shape[1] :]], 1)


def total_violation(violation: Tensor) -> Tensor:
    """Summed over the constraints, (..., K) -> (...)."""
    return violation.clamp_min(0).sum(-1)


def share_of(samples: int, share: float) -> int:
    """Elites for a share of the candidates: at least 2, for there is no deviation of one."""
    return min(samples, max(2, round(share * samples)))


def best_of(candidates: Tensor, scores: Scores, index: Tensor) -> Solution:
    """The best of a round's candidates, first by rank at `index`, (B, 1)."""
    if scores.violation is not None:
        # exact, where Deb's penalty would round a small violation away
        total = total_violation(scores.violation)
        least = total == total.amin(1, keepdim=True)
        index = torch.where(least, scores.cost, torch.inf).argmin(1, keepdim=True)
    actions, chosen = take(candidates, index).detach(), scores.take(index)
    violation = None if chosen.violation is None else chosen.violation.squeeze(1).detach()
    return Solution(actions.squeeze(1), chosen.cost.squeeze(1).detach(), violation, actions)


def better(old: Solution | None, new: Solution) -> Solution:
    """Of two solutions the better one in every environment; the old one if they are equal."""
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
