"""What an agent knows about its environment, and checks of what is saved of it besides levels and heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hiwm.hierarchy import Hierarchy
from hiwm.planning.graph.landmarks import LandmarkGraph

GRAPH = "graph"  # and the number of the level


@dataclass(frozen=True)
class AgentSpec:
    """What an agent knows about the environment it was trained in.

    Args:
        environment: its config, `_target_` and arguments.
        action_low, action_high: bounds of primitive actions in the data.
        dataset: fingerprint of the data, from which those of the levels follow.
        goal: columns of an observation that goals are about; empty for whole observations.
        goal_shapes: shape of each of these columns.
        discrete: whether actions are one of several options, one-hot vectors in the data.
    """

    environment: Mapping[str, Any]
    action_low: Sequence[float]
    action_high: Sequence[float]
    dataset: str
    goal: Sequence[str] = ()
    goal_shapes: Sequence[Sequence[int]] = ()
    discrete: bool = False

    @property
    def part(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the columns that goals are about."""
        return dict(zip(self.goal, map(tuple, self.goal_shapes), strict=True))


def load_graphs(folder: Path, num_levels: int, device: str) -> list[LandmarkGraph]:
    """A graph for each level, or none at all."""
    files = [folder / f"{GRAPH}{k}.safetensors" for k in range(num_levels)]
    missing = [file for file in files if not file.exists()]
    if missing and len(missing) < num_levels:
        raise ValueError(f"{missing[0]} is missing; expected a graph for each level. `hiwm train` writes it again")
    return [] if missing else [LandmarkGraph.load(file, device) for file in files]


def check_spec(spec: AgentSpec, hierarchy: Hierarchy) -> None:
    """Refuse bounds of actions, or columns of goals, that cannot be those of the levels."""
    dim = hierarchy.specs[0].dim_below
    for name, bound in (("action_low", spec.action_low), ("action_high", spec.action_high)):
        if len(bound) != dim or not all(map(math.isfinite, bound)):
            raise ValueError(f"spec.{name} is {list(bound)}; expected {dim} finite numbers, as level 0 takes")
    if len(spec.goal) != len(spec.goal_shapes) or any(size < 1 for shape in spec.goal_shapes for size in shape):
        raise ValueError(
            f"spec.goal_shapes is {list(spec.goal_shapes)}; expected a shape for each of {list(spec.goal)}"
        )


def first_fault(error: Exception) -> str:
    """The first fault in one line."""
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False)[0]
        return f"{'.'.join(['spec', *map(str, fault['loc'])])} is {fault['input']!r:.100}; {fault['msg']}"
    return str(error)


def plain(value: Any) -> Any:
    """Tuples as lists, mappings as dicts, for YAML."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
