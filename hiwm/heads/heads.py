"""All heads of a hierarchy, in one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hiwm.heads.action_bank import ActionBank
from hiwm.heads.action_prior import ActionPrior
from hiwm.heads.calibration import Calibration
from hiwm.heads.head import Head
from hiwm.heads.state_readout import StateReadout
from hiwm.heads.text import TextHead
from hiwm.heads.value import Value

H = TypeVar("H", bound=Head)

# field of `Heads` -> class of an entry, name of its files
KINDS: dict[str, tuple[type[Head], str]] = {
    "action_banks": (ActionBank, "action_bank"),
    "readouts": (StateReadout, "state_readout"),
    "texts": (TextHead, "text"),
    "calibrations": (Calibration, "calibration"),
    "action_priors": (ActionPrior, "action_prior"),
    "values": (Value, "value"),
}


def head_of(entries: Sequence[H | None], k: int) -> H | None:
    """Level k's entry of a field of `Heads`; None if the level has none."""
    return entries[k] if k < len(entries) else None


@dataclass(frozen=True)
class Heads:
    """All heads of a hierarchy. Each field has one entry per level, bottom first, or is empty where no level has such a head.

    Args:
        action_banks: real action sequences.
        readouts: predict the part of the state that goals are about.
        texts: predict which latents a caption is true of.
        calibrations: turn the disagreement of a predictor's ensemble into an expected squared error; None for levels
            without an ensemble.
        action_priors: turn noise into macro-actions that occur in a state; None for levels without an action prior.
        values: predict how many steps away a goal on a part of the state is; None for levels without a value head.
    """

    action_banks: Sequence[ActionBank] = ()
    readouts: Sequence[StateReadout] = ()
    texts: Sequence[TextHead] = ()
    calibrations: Sequence[Calibration | None] = ()
    action_priors: Sequence[ActionPrior | None] = ()
    values: Sequence[Value | None] = ()

    def save(self, folder: Path) -> None:
        """Write one safetensors file per entry."""
        for field, (_, name) in KINDS.items():
            for k, entry in enumerate(getattr(self, field)):
                if entry is not None:
                    entry.save(folder / f"{name}{k}.safetensors")

    @staticmethod
    def load(folder: Path, num_levels: int, device: str = "cpu") -> Heads:
        """Read what `save` wrote."""
        found: dict[str, Any] = {}
        for field, (kind, name) in KINDS.items():
            files = [folder / f"{name}{k}.safetensors" for k in range(num_levels)]
            entries = [kind.load(file, device) if file.exists() else None for file in files]
            found[field] = [] if all(entry is None for entry in entries) else entries
        return Heads(**found)
