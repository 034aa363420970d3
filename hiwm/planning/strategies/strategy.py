"""How one level plans: the interface of search, of following an inverse model, of following a graph, and of your own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hiwm.planning.costs import Evaluator
from hiwm.planning.model import LevelModel
from hiwm.planning.rollout import Rollout
from hiwm.planning.targets import Target


@dataclass(frozen=True)
class Problem:
    """What a level has to plan now, for B episodes.

    Args:
        model: predicts where actions of the level lead.
        latent: where the episodes are, (B, D).
        target: what to plan towards.
        evaluate: candidates -> their costs and constraint violations; what it has seen becomes the plan's alternatives.
        calls: predictor calls per episode that the plan may take.
        step: environment step of the plan.
        generator: all randomness.
        time_limit: seconds for the whole batch; None for no limit.
    """

    model: LevelModel
    latent: Tensor
    target: Target
    evaluate: Evaluator
    calls: float
    step: int
    generator: torch.Generator
    time_limit: float | None = None


@dataclass(frozen=True)
class Decision:
    """What a level does.

    Args:
        subgoal: latent of the level that is handed to the level below, (B, D).
        deadline: environment steps until it should be reached.
        rollout: the chosen actions and where they lead, one candidate per episode; None where a latent is handed down as it is.
        multipliers: Lagrange multipliers of the constraints, (B, K), of solvers that find them.
    """

    subgoal: Tensor
    deadline: int
    rollout: Rollout | None = None
    multipliers: Tensor | None = None

    @staticmethod
    def of(model: LevelModel, rollout: Rollout, multipliers: Tensor | None = None) -> Decision:
        """Carry out one candidate per episode; its first latent is the subgoal, due after one step of the level."""
        return Decision(rollout.latents[:, 0, 0], model.period, rollout, multipliers)


class Strategy(ABC):
    """Plans for one level. Set `planner.level<k>.strategy._target_` to use one of your own.

    Attributes:
        searches: whether it evaluates candidates, and so takes a share of `planner.budget`.
        needs_inverse: whether it asks an inverse model, which needs targets with a latent.
    """

    searches: bool = True
    needs_inverse: bool = False

    def check(self, model: LevelModel, calls: float) -> None:  # noqa: B027  # most strategies can always plan
        """Raise a ValueError, before any work, if it cannot plan with this model and so many predictor calls."""

    def start(self) -> None:  # noqa: B027  # most strategies remember nothing
        """Begin new episodes."""

    def select(self, rows: Tensor) -> None:  # noqa: B027
        """Go on with some of the episodes."""

    @abstractmethod
    def plan(self, problem: Problem) -> Decision:
        """What to do now."""
