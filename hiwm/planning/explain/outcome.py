"""The outcome of a subgoal."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hiwm.planning.explain.records import BatchRecord

OPEN, REACHED, UNREACHED, UNREACHABLE = range(4)
WORDS = {
    REACHED: "reached",
    UNREACHED: "not reached in time",
    UNREACHABLE: "unreachable, because the level below found no path",
}


@dataclass(frozen=True)
class SubgoalOutcome(BatchRecord):
    """Outcome of the last subgoal that was decided, for B episodes.

    Args:
        outcome: OPEN (none decided yet), REACHED, UNREACHED (not in time) or UNREACHABLE (for the level below), (B,).
        planned_at: environment step at which the subgoal was handed down, (B,).
        left: least length of the way to the subgoal, as a share of that at the start, or of a typical step if that is longer, (B,).
    """

    outcome: Tensor
    planned_at: Tensor
    left: Tensor

    def text(self, episode: int) -> str:
        """In words; "" where none was decided."""
        outcome = int(self.outcome[episode])
        if outcome == OPEN:
            return ""
        text = f"{float(self.left[episode]):.2f}"
        left = "all" if text == "1.00" else text
        return f"subgoal of step {int(self.planned_at[episode])} {WORDS[outcome]}: {left} of its distance was left"
