"""Augmented Lagrangian method: an inner solver minimises the cost plus a term for constraints g(a) <= 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hiwm.checks import at_least, within
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.solvers.solver import Proposal, Scores, Solution, Solver, take

MAX_MULTIPLIER = 1e9  # without a feasible candidate multipliers would grow forever (Birgin & Martinez 2014)


@dataclass(frozen=True)
class Duals:
    """Dual variables of K constraints, (B, K) each.

    Args:
        multipliers: lambda.
        penalties: penalty parameters, rho.
        residuals: |max(g, -lambda / rho)| after the last outer iteration: infeasibility, or failed complementarity.
    """

    multipliers: Tensor
    penalties: Tensor
    residuals: Tensor


@dataclass(frozen=True)
class OuterIteration:
    """State within one outer iteration, during which the dual variables do not change.

    Args:
        proposal: of the inner solver.
        inner: state of the inner solver.
        duals: dual variables; None before the first scores, and without constraints.
        done: rounds of the inner solver so far.
        actions: best candidate of this outer iteration, by the augmented cost, (B, C, F).
        cost: its augmented cost, (B,).
        violation: its g, (B, K); None without constraints.
    """

    proposal: Proposal
    inner: Any
    duals: Duals | None
    done: int
    actions: Tensor
    cost: Tensor
    violation: Tensor | None


class AugmentedLagrangian(Solver[OuterIteration]):
    """Minimise J(a) subject to g(a) <= 0 by L = J + sum_k (max(0, lambda_k + rho_k g_k)^2 - lambda_k^2) / (2 rho_k).

    The inner solver minimises L; then lambda_k <- max(0, lambda_k + rho_k g_k), and the next outer iteration starts where
    the last one ended (Powell, Hestenes, Rockafellar; Nocedal & Wright 2006, Sec. 17.4). rho_k grows where the residual of
    g_k has not decreased enough (Birgin & Martinez 2014, Alg. 4.1). Every environment and constraint has its own lambda and
    rho. The result is the best candidate of all iterations, a feasible one if there was any. Without constraints the inner
    solver alone searches, `outer_iterations` times.

    Args:
        solver: the inner solver.
        outer_iterations: updates of the multipliers, each after a search by the inner solver.
        penalty: rho at the beginning, in cost over squared violation.
        growth: factor by which a penalty grows.
        progress: a penalty grows if its residual is more than this share of the one before.
        tolerance: a penalty does not grow while its residual is at most this. The inner search is not exact, so the residual
            never reaches 0 and the penalty would grow forever.
    """

    def __init__(
        self,
        *,
        solver: Solver[Any],
        outer_iterations: int = 3,
        penalty: float = 10.0,
        growth: float = 10.0,
        progress: float = 0.5,
        tolerance: float = 1e-3,
    ) -> None:
        at_least(1, outer_iterations=outer_iterations, growth=growth)
        within("(0, inf)", penalty=penalty)
        within("(0, 1)", progress=progress)
        within("[0, inf)", tolerance=tolerance)
        self.solver = solver
        self.outer_iterations = outer_iterations
        self.penalty = penalty
        self.growth = growth
        self.progress = progress
        self.tolerance = tolerance
        self.iterations = outer_iterations * solver.iterations
        self.min_samples = solver.min_samples
        self.differentiates = solver.differentiates

    @property
    def cost_in_rounds(self) -> float:
        return self.outer_iterations * self.solver.cost_in_rounds

    def start(self, proposal: Proposal) -> OuterIteration:
        return self._begin(proposal, proposal.mean, None)

    def draw(self, proposal: Proposal, state: OuterIteration, samples: int, noise: EpisodeNoise) -> Tensor:
        return self.solver.draw(state.proposal, state.inner, samples, noise)

    def project(self, proposal: Proposal, candidates: Tensor) -> Tensor:
        return self.solver.project(proposal, candidates)

    def recentre(self, proposal: Proposal, actions: Tensor) -> Proposal:
        return self.solver.recentre(proposal, actions)

    def update(
        self, proposal: Proposal, state: OuterIteration, candidates: Tensor, scores: Scores, elite: Tensor
    ) -> OuterIteration:
        cost, violation, duals = scores.cost, scores.violation, state.duals
        if violation is not None:
            duals = duals or self._initial_duals(violation)
            cost = cost + lagrangian(violation, duals)
        augmented = Scores(cost)
        order = augmented.order(self.solver.elites(candidates.shape[1]))
        inner = self.solver.update(state.proposal, state.inner, candidates, augmented, order)
        state = self._with_best(
            replace(state, inner=inner, duals=duals, done=state.done + 1), candidates, cost, violation
        )
        if state.done < self.solver.iterations:
            return state
        duals = None if state.violation is None or duals is None else self._updated(duals, state.violation)
        return self._begin(self.solver.recentre(proposal, state.actions), state.actions, duals)

    def finish(self, solution: Solution, state: OuterIteration) -> Solution:
        multipliers = None if state.duals is None else state.duals.multipliers
        return replace(solution, multipliers=multipliers)

    def _begin(self, proposal: Proposal, actions: Tensor, duals: Duals | None) -> OuterIteration:
        cost = torch.full((len(actions),), torch.inf, device=actions.device)
        return OuterIteration(proposal, self.solver.start(proposal), duals, 0, actions, cost, None)

    def _initial_duals(self, violation: Tensor) -> Duals:
        zero = torch.zeros_like(violation[:, 0]).detach()
        return Duals(zero, torch.full_like(zero, self.penalty), torch.full_like(zero, torch.inf))

    def _updated(self, duals: Duals, violation: Tensor) -> Duals:
        """The dual variables after an outer iteration that ended with these violations, (B, K)."""
        multipliers = (duals.multipliers + duals.penalties * violation).clamp(0, MAX_MULTIPLIER)
        residuals = torch.maximum(violation, -duals.multipliers / duals.penalties).abs()
        slow = residuals > (self.progress * duals.residuals).clamp_min(self.tolerance)
        return Duals(multipliers, torch.where(slow, self.growth * duals.penalties, duals.penalties), residuals)

    @staticmethod
    def _with_best(state: OuterIteration, candidates: Tensor, cost: Tensor, violation: Tensor | None) -> OuterIteration:
        index = cost.argmin(1, keepdim=True)
        least = take(cost, index).squeeze(1).detach()
        wins = least < state.cost
        actions = torch.where(wins[:, None, None], take(candidates, index).squeeze(1).detach(), state.actions)
        if violation is not None:
            violation = take(violation, index).squeeze(1).detach()
            violation = violation if state.violation is None else torch.where(wins[:, None], violation, state.violation)
        return replace(state, actions=actions, cost=torch.where(wins, least, state.cost), violation=violation)


def lagrangian(violation: Tensor, duals: Duals) -> Tensor:
    """The term that the constraints add to the cost, (B, S, K) -> (B, S)."""
    multipliers, penalties = duals.multipliers.unsqueeze(1), duals.penalties.unsqueeze(1)
    # multiplied out, because the difference of two large squares would be rounded
    active = violation * (multipliers + penalties * violation / 2)
    return torch.where(multipliers + penalties * violation > 0, active, -multipliers.square() / (2 * penalties)).sum(-1)
