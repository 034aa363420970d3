"""Augmented Lagrangian: constraints g(a) <= 0 as prices, which another solver then sees as energy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hiwm.checks import at_least, within
from hiwm.planning.solvers.solver import Proposal, Scores, Solution, Solver, take

MOST = 1e9  # of a multiplier: where nothing is allowed, they would grow for ever (Birgin & Martinez 2014)


@dataclass(frozen=True)
class Prices:
    """Of each constraint, (B, K).

    Args:
        multipliers: lambda.
        penalties: rho.
        miss: |max(g, -lambda / rho)| after the round before: how far from being met, or from not mattering.
    """

    multipliers: Tensor
    penalties: Tensor
    miss: Tensor


@dataclass(frozen=True)
class Round:
    """An outer round, within which the prices stay as they are.

    Args:
        proposal: of the inner solver.
        inner: its state.
        prices: of the constraints; None before the first scores, and without constraints.
        done: inner rounds so far.
        actions: best since this outer round began, by the augmented energy, (B, C, F).
        cost: its augmented energy, (B,).
        violation: g there, (B, K); None without constraints.
    """

    proposal: Proposal
    inner: Any
    prices: Prices | None
    done: int
    actions: Tensor
    cost: Tensor
    violation: Tensor | None


class AugmentedLagrangian(Solver[Round]):
    """min E(a) with g(a) <= 0: L = E + sum_k (max(0, lambda_k + rho_k g_k)^2 - lambda_k^2) / (2 rho_k), round after round.

    Another solver searches for the least L; then lambda_k <- max(0, lambda_k + rho_k g_k), and the next round starts where
    it ended (Powell, Hestenes, Rockafellar; Nocedal & Wright 2006, Sec. 17.4). rho_k grows where g_k came no nearer to being
    met (Birgin & Martinez 2014, Alg. 4.1). Multipliers and penalties belong to one environment and one constraint each.
    The answer is the best candidate of all rounds, an allowed one if any was seen; without constraints, that of the inner solver.

    Args:
        solver: the inner one.
        rounds: outer rounds.
        penalty: rho at the beginning, in energy over squared violation.
        growth: of a penalty.
        progress: a violation of more than this share of the one before makes its penalty grow,
        tolerance: unless it is this small: a search that is not exact would else raise it for ever.
    """

    def __init__(
        self,
        *,
        solver: Solver[Any],
        rounds: int = 4,
        penalty: float = 10.0,
        growth: float = 10.0,
        progress: float = 0.5,
        tolerance: float = 1e-3,
    ) -> None:
        at_least("AugmentedLagrangian.", 1, rounds=rounds, growth=growth)
        within("AugmentedLagrangian.", "(0, inf)", penalty=penalty)
        within("AugmentedLagrangian.", "(0, 1)", progress=progress)
        within("AugmentedLagrangian.", "[0, inf)", tolerance=tolerance)
        self.solver = solver
        self.rounds = rounds
        self.penalty = penalty
        self.growth = growth
        self.progress = progress
        self.tolerance = tolerance
        self.iterations = rounds * solver.iterations
        self.min_samples = solver.min_samples
        self.differentiates = solver.differentiates

    @property
    def cost(self) -> float:
        """See `Solver`."""
        return self.rounds * self.solver.cost

    def start(self, proposal: Proposal) -> Round:
        """See `Solver`."""
        return self._round(proposal, proposal.mean, None)

    def draw(self, proposal: Proposal, state: Round, samples: int, generator: torch.Generator) -> Tensor:
        """See `Solver`."""
        return self.solver.draw(state.proposal, state.inner, samples, generator)

    def project(self, proposal: Proposal, candidates: Tensor) -> Tensor:
        """See `Solver`."""
        return self.solver.project(proposal, candidates)

    def recentre(self, proposal: Proposal, actions: Tensor) -> Proposal:
        """See `Solver`."""
        return self.solver.recentre(proposal, actions)

    def update(self, proposal: Proposal, state: Round, candidates: Tensor, scores: Scores, elite: Tensor) -> Round:
        """See `Solver`."""
        energy, violation, prices = scores.cost, scores.violation, state.prices
        if violation is not None:
            prices = prices or self._first(violation)
            energy = energy + lagrangian(violation, prices)
        augmented = Scores(energy)
        order = augmented.order(self.solver.elites(candidates.shape[1]))
        inner = self.solver.update(state.proposal, state.inner, candidates, augmented, order)
        state = self._with_best(
            replace(state, inner=inner, prices=prices, done=state.done + 1), candidates, energy, violation
        )
        if state.done < self.solver.iterations:
            return state
        prices = None if state.violation is None or prices is None else self._dearer(prices, state.violation)
        return self._round(self.solver.recentre(proposal, state.actions), state.actions, prices)

    def finish(self, solution: Solution, state: Round) -> Solution:
        """See `Solver`."""
        multipliers = None if state.prices is None else state.prices.multipliers
        return replace(solution, multipliers=multipliers)

    def _round(self, proposal: Proposal, actions: Tensor, prices: Prices | None) -> Round:
        energy = torch.full((len(actions),), torch.inf, device=actions.device)
        return Round(proposal, self.solver.start(proposal), prices, 0, actions, energy, None)

    def _first(self, violation: Tensor) -> Prices:
        none = torch.zeros_like(violation[:, 0]).detach()
        return Prices(none, torch.full_like(none, self.penalty), torch.full_like(none, torch.inf))

    def _dearer(self, prices: Prices, violation: Tensor) -> Prices:
        """The prices after a round that ended with these violations, (B, K)."""
        multipliers = (prices.multipliers + prices.penalties * violation).clamp(0, MOST)
        miss = torch.maximum(violation, -prices.multipliers / prices.penalties).abs()
        slow = miss > (self.progress * prices.miss).clamp_min(self.tolerance)
        return Prices(multipliers, torch.where(slow, self.growth * prices.penalties, prices.penalties), miss)

    @staticmethod
    def _with_best(state: Round, candidates: Tensor, cost: Tensor, violation: Tensor | None) -> Round:
        index = cost.argmin(1, keepdim=True)
        least = take(cost, index).squeeze(1).detach()
        wins = least < state.cost
        actions = torch.where(wins[:, None, None], take(candidates, index).squeeze(1).detach(), state.actions)
        if violation is not None:
            violation = take(violation, index).squeeze(1).detach()
            violation = violation if state.violation is None else torch.where(wins[:, None], violation, state.violation)
        return replace(state, actions=actions, cost=torch.where(wins, least, state.cost), violation=violation)


def lagrangian(violation: Tensor, prices: Prices) -> Tensor:
    """What the constraints add to the energy, (B, S, K) -> (B, S)."""
    multipliers, penalties = prices.multipliers.unsqueeze(1), prices.penalties.unsqueeze(1)
    # multiplied out: the difference of two large squares would be rounded
    active = violation * (multipliers + penalties * violation / 2)
    return torch.where(multipliers + penalties * violation > 0, active, -multipliers.square() / (2 * penalties)).sum(-1)
