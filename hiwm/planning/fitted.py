"""What is fitted to a hierarchy once its levels are trained: what planning needs beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiwm.planning.calibration import Calibration
from hiwm.planning.cost_to_go import CostToGo
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.planning.macros import MacroActions
from hiwm.planning.prior import MacroPrior
from hiwm.planning.readout import Readout
from hiwm.planning.text import TextHead

# field of `Fitted` -> class of an entry, name of its files
KINDS: dict[str, tuple[Any, str]] = {
    "graphs": (LandmarkGraph, "graph"),
    "macros": (MacroActions, "macros"),
    "readouts": (Readout, "readout"),
    "texts": (TextHead, "text"),
    "calibrations": (Calibration, "calibration"),
    "priors": (MacroPrior, "prior"),
    "costs": (CostToGo, "cost_to_go"),
}


@dataclass(frozen=True)
class Fitted:
    """One entry a level, bottom first; empty: of no level.

    Args:
        graphs: over the latents of each level.
        macros: real actions, for the proposals queue and bank.
        readouts: of the part of the state that goals are about.
        texts: which latents a caption is true of.
        calibrations: of the predictor's ensemble; None for levels without one.
        priors: which macro-actions occur; None for levels that learned none.
        costs: to go to goals on a part of the state; None for levels that learned none.
    """

    graphs: Sequence[LandmarkGraph] = ()
    macros: Sequence[MacroActions] = ()
    readouts: Sequence[Readout] = ()
    texts: Sequence[TextHead] = ()
    calibrations: Sequence[Calibration | None] = ()
    priors: Sequence[MacroPrior | None] = ()
    costs: Sequence[CostToGo | None] = ()

    def of(self, field: str, k: int) -> Any:
        """Level k's entry of a field; None where it has none."""
        entries = getattr(self, field)
        return entries[k] if k < len(entries) else None

    def save(self, folder: Path) -> None:
        """A safetensors file for every entry."""
        for field, (_, name) in KINDS.items():
            for k, entry in enumerate(getattr(self, field)):
                if entry is not None:
                    entry.save(folder / f"{name}{k}.safetensors")

    @staticmethod
    def load(folder: Path, num_levels: int, device: str = "cpu") -> Fitted:
        """What `save` wrote."""
        found = {}
        for field, (kind, name) in KINDS.items():
            files = [folder / f"{name}{k}.safetensors" for k in range(num_levels)]
            entries = [kind.load(file, device) if file.exists() else None for file in files]
            found[field] = [] if all(entry is None for entry in entries) else entries
        return Fitted(**found)
