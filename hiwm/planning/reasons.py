"""Why a level does what it does, as tensors of a batch of B episodes; made into words for one of them on demand."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from hiwm.planning.graph.path import GraphPath

T = TypeVar("T")

# what became of a subgoal
NOTHING, REACHED, UNREACHED, UNREACHABLE = range(4)


@dataclass(frozen=True)
class Verdict:
    """What became of the last subgoal that was judged.

    Args:
        outcome: NOTHING where none was yet, REACHED, UNREACHED in the time it had, or UNREACHABLE by what the level below
            told, (B,).
        made_at: environment step it was handed down at, (B,).
        energy: squared distance the episode came to, (B,).
        scale: squared distance it was away, at least that of a typical step, (B,).
    """

    outcome: Tensor
    made_at: Tensor
    energy: Tensor
    scale: Tensor

    def keep(self, rows: Tensor) -> Verdict:
        """The same for some of the episodes."""
        return keep_rows(self, rows)

    def text(self, episode: int) -> str:
        """In words; "" where there is nothing to tell."""
        outcome = int(self.outcome[episode])
        if outcome == NOTHING:
            return ""
        said = {
            REACHED: "reached",
            UNREACHED: "not reached in time",
            UNREACHABLE: "given up, the level below saw no way",
        }
        share = float((self.energy[episode] / self.scale[episode]).sqrt())
        return f"subgoal of step {int(self.made_at[episode])} {said[outcome]}: came to {share:.2f} of its distance"


def keep_rows(record: T, rows: Tensor) -> T:
    """A dataclass of tensors (B, ...), for some of their rows; records within it keep theirs, anything else stays."""

    def kept(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[rows]
        return (
            value.select(rows)
            if isinstance(value, GraphPath)
            else value.keep(rows)
            if is_dataclass(type(value))
            else value
        )

    held: Any = record  # there is no type of all dataclasses
    return replace(held, **{field.name: kept(getattr(held, field.name)) for field in fields(held)})
