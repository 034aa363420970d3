"""The subgoals that a strategy evaluated and did not choose, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hiwm.planning.explain.records import BatchRecord
from hiwm.planning.rollout import Rollout
from hiwm.planning.solvers.solver import Scores, take, total_violation

SHOWN = 3  # number of alternatives
DISTINCT = 0.5  # smallest distance between distinct subgoals, as a share of the distance to the chosen one


@dataclass(frozen=True)
class Alternatives(BatchRecord):
    """The N best distinct alternatives, ranked without the failure penalty, best first.

    They include subgoals that violate a constraint or failed before, so that the explanation can show why they lost.

    Args:
        subgoal: subgoals, (B, N, D).
        distance: distance from the chosen subgoal, (B, N).
        cost: cost with the failure penalty, (B, N); inf where there is no further alternative.
        penalty: failure penalty, (B, N).
        violation: total violation of all constraints, (B, N); 0 without constraints.
    """

    subgoal: Tensor
    distance: Tensor
    cost: Tensor
    penalty: Tensor
    violation: Tensor

    def text(self, episode: int, chosen_cost: float) -> list[str]:
        """One line for each alternative, compared with the cost of the chosen one."""
        columns = (self.distance, self.cost, self.penalty, self.violation)
        rows = zip(*(column[episode].tolist() for column in columns), strict=True)
        lines = []
        for distance, cost, penalty, violation in rows:
            if cost == float("inf"):
                continue
            why = ""
            if violation > 0:
                why = f", violates constraints by {violation:.3g}"
            elif cost < chosen_cost:
                why = ", but the strategy or the check of subgoals chose another"
            elif cost - penalty < chosen_cost:
                why = f", {penalty:.3g} of it because it failed before"
            lines.append(f"cost {cost:.3g}{why} ({distance:.3g} away)")
        return lines


class DistinctPlans(NamedTuple):
    """The N best candidates with distinct subgoals, best first.

    Args:
        actions: all actions of the plans, (B, N, H, A).
        found: whether there is such a candidate, (B, N).
    """

    actions: Tensor
    found: Tensor


class CandidateLog:
    """Collects the candidates that a strategy evaluates, round after round."""

    def __init__(self) -> None:
        self.rounds: list[tuple[Tensor, ...]] = []
        self.actions: list[Tensor] = []

    def add(self, rollout: Rollout, scores: Scores, penalty: Tensor | None) -> None:
        """Add candidates.

        Args:
            rollout: candidates; their first latents are the subgoals they would hand down.
            scores: scores of the candidates.
            penalty: share of their costs that is due to earlier failures, (B, S); None if nothing failed.
        """
        none = torch.zeros_like(scores.cost)
        violation = none if scores.violation is None else total_violation(scores.violation)
        round_ = (rollout.latents[:, :, 0], scores.without_nan().cost, none if penalty is None else penalty, violation)
        self.rounds.append(tuple(x.detach() for x in round_))
        self.actions.append(rollout.actions.detach())

    def distinct(self, latent: Tensor, chosen: Tensor, number: int) -> DistinctPlans:
        """The best candidates without violation whose subgoals differ from the chosen ones (B, D) of episodes at latents (B, D)."""
        subgoals, cost, _, violation = (torch.cat(x, 1) for x in zip(*self.rounds, strict=True))
        cost = torch.where(violation <= 0, cost, torch.inf)
        index, least = _best_distinct(subgoals, cost, latent, chosen, number)
        return DistinctPlans(take(torch.cat(self.actions, 1), index), least.isfinite())

    def alternatives(self, latent: Tensor, chosen: Tensor) -> Alternatives | None:
        """The best alternatives to the chosen subgoals (B, D) of episodes at latents (B, D); None if nothing was evaluated."""
        if not self.rounds:
            return None
        subgoals, cost, penalty, violation = (torch.cat(x, 1) for x in zip(*self.rounds, strict=True))
        index, costs = _best_distinct(subgoals, cost - penalty, latent, chosen, SHOWN)
        subgoal, penalty = take(subgoals, index), take(penalty, index)
        distance = (subgoal - chosen.unsqueeze(1)).norm(dim=-1)
        return Alternatives(subgoal, distance, costs + penalty, penalty, take(violation, index))


def _best_distinct(
    subgoals: Tensor, cost: Tensor, latent: Tensor, chosen: Tensor, number: int
) -> tuple[Tensor, Tensor]:
    """Indices and costs (B, number) of the cheapest subgoals (B, S, D) that differ from the chosen ones (B, D) and from each other."""
    radius, last = DISTINCT * (chosen - latent).norm(dim=-1, keepdim=True), chosen.unsqueeze(1)
    picks, costs = [], []
    for _ in range(number):
        cost = torch.where((subgoals - last).norm(dim=-1) > radius, cost, torch.inf)
        least, pick = cost.min(1, keepdim=True)
        picks.append(pick)
        costs.append(least)
        last = take(subgoals, pick)
    return torch.cat(picks, 1), torch.cat(costs, 1)
