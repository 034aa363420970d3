"""The parts that the cost of a plan is the sum of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hiwm.planning.explain.records import BatchRecord

TARGET, GOAL, FAILURES = "target", "goal", "failed before"


@dataclass(frozen=True)
class CostParts(BatchRecord):
    """What the plans of B episodes cost at each step, by P parts, in the order in which they are added.

    Args:
        names: `target` is the distance to the target, `goal` the share of `planner.level<k>.goal_weight`, `failed before` the
            penalty of earlier failures; the others are names of costs.
        values: (B, P, H).
        step: index of the cheapest step, whose sum is the cost of the plan, (B,).
    """

    names: tuple[str, ...]
    values: Tensor
    step: Tensor

    @staticmethod
    def of(parts: Sequence[tuple[str, Tensor]], goal: Tensor | None) -> CostParts:
        """The parts of one candidate per episode, (B, 1, H) each; `goal` is a share of the first, (B, H)."""
        names, values = zip(*parts, strict=True)
        values = torch.stack([value[:, 0] for value in values], 1)
        total = values.sum(1)
        step = torch.where(total.isnan(), torch.inf, total).argmin(-1)
        if goal is not None:
            values = torch.cat([values[:, :1] - goal.unsqueeze(1), goal.unsqueeze(1), values[:, 1:]], 1)
            names = (names[0], GOAL, *names[1:])
        return CostParts(tuple(names), values, step)
