"""Costs of predicted plans: what a level minimises besides the distance to its target.

A cost is a small object, rollout -> (B, S, H). Costs add up; the cost of a plan is their minimum over its steps, not the mean
or the last, so that a detour is not taxed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from hiwm.planning.explain.alternatives import CandidateLog
from hiwm.planning.explain.cost_parts import FAILURES, TARGET
from hiwm.planning.goals import Goal, broadcast_to
from hiwm.planning.model import LevelModel
from hiwm.planning.rollout import Rollout
from hiwm.planning.solvers.solver import Scores
from hiwm.planning.targets import Target


class Cost(ABC):
    """What a plan costs, step by step. Set `planner.level<k>.costs` to add one of your own to level k."""

    def start(self, goal: Goal) -> None:  # noqa: B027  # most costs do not depend on the goal
        """Called with the goals of B episodes when they begin, when a goal changes, and when some of the episodes end."""

    @abstractmethod
    def __call__(self, rollout: Rollout) -> Tensor:
        """Costs of every candidate and step, (B, S, H); lower is better, NaN is an error.

        A plan costs as much as its cheapest step, so inf excludes a step, and a plan only if all its steps are inf. A constraint
        (`Goal.violation`, for instance of a `KeepOut`) excludes plans that pass through a state.
        """


class ValueCost(Cost):
    """Predicted steps of the level to the goal, for goals on a part of the state.

    Args:
        model: of the level; has a value.
        weight: cost of one step.
    """

    def __init__(self, model: LevelModel, weight: float) -> None:
        assert model.value is not None, "checked before"
        self.value, self.level, self.weight = model.value, model.k, weight

    def start(self, goal: Goal) -> None:
        if goal.part is None:
            raise ValueError(
                f"planner.level{self.level}.value_weight is {self.weight}; expected 0, because {goal.kind} is not a goal on a "
                "part of the state (`Agent.part_goal`, or a dict where goal.columns names the part)"
            )
        self.part = goal.part

    def __call__(self, rollout: Rollout) -> Tensor:
        return self.weight * self._steps(rollout.latents)

    def along(self, rollout: Rollout) -> Tensor:
        """Steps to the goal from the start and after each action of one candidate per episode, (B, H + 1)."""
        return self._steps(torch.cat([rollout.start.unsqueeze(1), rollout.latents[:, 0]], 1))

    def _steps(self, latents: Tensor) -> Tensor:
        """Predicted steps to the goal, (B, ..., D) -> (B, ...)."""
        return self.value(latents, broadcast_to(self.part, latents))


class DisagreementCost(Cost):
    """Expected squared error of an ensemble's most uncertain step so far.

    Args:
        model: of the level; its predictor is a calibrated ensemble.
        weight: with 1 it weighs as much as a squared distance in the level's latents.
    """

    def __init__(self, model: LevelModel, weight: float) -> None:
        assert model.calibration is not None, "checked before"
        self.calibration, self.weight = model.calibration, weight

    def __call__(self, rollout: Rollout) -> Tensor:
        assert rollout.variance is not None, "checked: the predictor is an ensemble"
        return self.weight * self.calibration.expected_error(rollout.variance)


@dataclass(frozen=True)
class Evaluation:
    """Scores of S candidates for each of B episodes, and what they are made of.

    Args:
        parts: name -> costs that add up, (B, S, H); the first is the cost of the target alone.
        penalty: share of the cost that is due to earlier failures, (B, S); None where nothing failed.
        scores: least total cost over the horizon, and the maximum violation up to that step or the next replan, whichever is later.
    """

    parts: Sequence[tuple[str, Tensor]]
    penalty: Tensor | None
    scores: Scores


@dataclass(frozen=True)
class Evaluator:
    """Evaluates candidates of one level towards one target: the costs add up, constraints stay apart.

    Args:
        target: what the level plans towards.
        costs: of the level, by name.
        penalty: cost of what failed before; None where nothing has.
        constraint: latents (B, S, H, D) -> violation of the goal's constraint, (B, S, H); None without one.
        committed: steps of the level until the next plan, rounded up.
        log: records every candidate that a strategy evaluates; None: records nothing.
    """

    target: Target
    costs: Mapping[str, Cost]
    penalty: Callable[[Rollout], Tensor] | None
    constraint: Callable[[Tensor], Tensor | None]
    committed: int
    log: CandidateLog | None

    def __call__(self, rollout: Rollout) -> Scores:
        """Scores of candidates, which are logged as alternatives of the plan."""
        found = self.in_detail(rollout)
        if self.log is not None:
            self.log.add(rollout, found.scores, found.penalty)
        return found.scores

    def in_detail(self, rollout: Rollout, tried: Rollout | None = None) -> Evaluation:
        """Scores of candidates and what they are made of; nothing is logged.

        Args:
            rollout: candidates.
            tried: the same candidates as the level would try them, if the rollout is where they lead instead.
        """
        depth = self.constraint(rollout.latents)
        parts = [(TARGET, self.target.cost(rollout)), *((name, cost(rollout)) for name, cost in self.costs.items())]
        penalty = None if self.penalty is None else self.penalty(rollout if tried is None else tried)
        if penalty is not None:
            parts.append((FAILURES, penalty))
        total = reduce(torch.add, (cost for _, cost in parts))
        if penalty is None and depth is None:  # the step of the least cost is not needed
            return Evaluation(parts, None, Scores(total.amin(-1)))
        least = torch.where(total.isnan(), torch.inf, total).argmin(-1, keepdim=True)  # (B, S, 1)
        violation = None
        if depth is not None:
            committed = min(self.committed, depth.shape[-1])  # a strategy may evaluate shorter plans
            violation = depth.cummax(-1).values.gather(-1, least.clamp(min=committed - 1))
        penalty = None if penalty is None else penalty.gather(-1, least).squeeze(-1)
        return Evaluation(parts, penalty, Scores(total.amin(-1), violation))
