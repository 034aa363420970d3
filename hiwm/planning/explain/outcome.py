"""What became of a subgoal."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hiwm.planning.explain.records import select_rows

OPEN, REACHED, UNREACHED, UNREACHABLE = range(4)
WORDS = {
    REACHED: "reached",
    UNREACHED: "not reached in time",
    UNREACHABLE: "given up, because the level below found no path",
}


@dataclass(frozen=True)
class SubgoalOutcome:
    """Outcome of the last subgoal that was decided, for B episodes.

    Args:
        outcome: OPEN where none was decided yet, REACHED, UNREACHED in time, or UNREACHABLE for the level below, (B,).
        planned_at: environment step it was handed down at, (B,).
        distance: least squared distance of the episode from it, (B,).
        scale: squared distance at the start, at least that of a typical step, (B,).
    """

    outcome: Tensor
    planned_at: Tensor
    distance: Tensor
    scale: Tensor

    def select(self, rows: Tensor) -> SubgoalOutcome:
        """The same for some of the episodes."""
        return select_rows(self, rows)

    def text(self, episode: int) -> str:
        """In words; "" where none was decided."""
        outcome = int(self.outcome[episode])
        if outcome == OPEN:
            return ""
        share = float((self.distance[episode] / self.scale[episode]).sqrt())
        return f"subgoal of step {int(self.planned_at[episode])} {WORDS[outcome]}: {share:.2f} of its distance was left"
