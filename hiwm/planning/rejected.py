"""The subgoals that a search tried and did not choose, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hiwm.planning.reasons import keep_rows
from hiwm.planning.solvers.solver import Scores, take, total_violation

SHOWN = 3  # alternatives
OTHER = 0.5  # of the way to the chosen subgoal: one that is farther from it than this is another


@dataclass(frozen=True)
class Rejected:
    """Other subgoals that a search tried: the N best, had nothing failed before, best first, each unlike the others.

    What is forbidden or failed before is among them, for that is why it was not chosen.

    Args:
        subgoal: (B, N, D).
        away: distance from the chosen one, (B, N).
        energy: with what it costs for having failed, (B, N); inf where the search tried no other.
        penalty: that cost, (B, N).
        violation: of all constraints along the plan, (B, N); 0 without any.
    """

    subgoal: Tensor
    away: Tensor
    energy: Tensor
    penalty: Tensor
    violation: Tensor

    def keep(self, rows: Tensor) -> Rejected:
        """The same for some of the episodes."""
        return keep_rows(self, rows)

    def text(self, episode: int, energy: float) -> list[str]:
        """Each in words, beside the chosen one's energy."""
        rows = zip(*(x[episode].tolist() for x in (self.away, self.energy, self.penalty, self.violation)), strict=True)
        told = []
        for away, its, penalty, violation in rows:
            if its == float("inf"):
                continue
            why = ""
            if violation > 0:
                why = f", forbidden by {violation:.3g}"
            elif its - penalty < energy:
                why = f", {penalty:.3g} of it because that failed before"
            told.append(f"energy {its:.3g}{why} ({away:.3g} from it)")
        return told


class Tried:
    """Collects what one search tries, round after round."""

    def __init__(self) -> None:
        self.rounds: list[tuple[Tensor, ...]] = []

    def add(self, subgoals: Tensor, scores: Scores, penalty: Tensor | None) -> None:
        """A round's candidates, (B, S, D), and what of their energy they cost for having failed, (B, S)."""
        none = torch.zeros_like(scores.cost)
        violation = none if scores.violation is None else total_violation(scores.violation)
        round_ = (subgoals, scores.without_nan().cost, none if penalty is None else penalty, violation)
        self.rounds.append(tuple(x.detach() for x in round_))

    def rejected(self, here: Tensor, chosen: Tensor) -> Rejected:
        """The best that are other subgoals than the one that was chosen, (B, D), for episodes at latents (B, D)."""
        subgoals, energy, penalty, violation = (torch.cat(x, 1) for x in zip(*self.rounds, strict=True))
        away = (subgoals - chosen.unsqueeze(1)).norm(dim=-1)
        radius = OTHER * (chosen - here).norm(dim=-1, keepdim=True)
        left = torch.where(away > radius, energy - penalty, torch.inf)
        picks, worth = [], []
        for _ in range(SHOWN):
            least, pick = left.min(1, keepdim=True)
            picks.append(pick)
            worth.append(least)
            left = torch.where((subgoals - take(subgoals, pick)).norm(dim=-1) > radius, left, torch.inf)
        index = torch.cat(picks, 1)
        penalty = take(penalty, index)
        return Rejected(
            take(subgoals, index), take(away, index), torch.cat(worth, 1) + penalty, penalty, take(violation, index)
        )
