"""How far each level looks ahead, and when a level plans for the goal itself: the interface, and the fixed horizon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from hiwm.planning.goals import Goal
from hiwm.planning.targets import Target


class HorizonSchedule(Protocol):
    """How far each level looks ahead, and which levels plan for the goal itself, in B episodes."""

    def start(self, goal: Goal) -> None:
        """Begin B episodes."""

    def update_goal(self, goal: Goal, changed: Tensor) -> None:
        """Continue towards these goals; `changed`, (B,), says which are new."""

    def select(self, rows: Tensor, goal: Goal) -> None:
        """Continue with some of the episodes, given as indices, (N,); `goal` is theirs."""

    def observe(self, latents: Sequence[Tensor]) -> None:
        """Where the episodes are now, (B, D) of every level; called before they plan."""

    def may_plan_for_goal(self, k: int) -> bool:
        """Whether level k may plan for the goal instead of a subgoal."""
        ...

    def target(self, k: int, target: Target, step: int) -> Target:
        """What level k plans towards: the target of its navigator or of the level above, or the goal."""
        ...

    def follows_subgoal(self, k: int, step: int) -> Tensor | None:
        """Whether level k plans towards the subgoal of the level above, (B,); None: always."""
        ...

    def current_cost(self, k: int, latent: Tensor, cost: Tensor, step: int) -> Tensor:
        """Cost of staying at latents (B, D) of level k, given the cost with respect to `Target`, (B,)."""
        ...

    def note_plan(self, k: int, predicted: Tensor, step: int) -> Tensor | None:
        """Note where a plan of level k leads, (B, H, D).

        Returns:
            Steps of the level within which the plan must meet the goal, (B,): 0 where it plans towards a subgoal. None if
            that never changes.
        """
        ...


class FixedHorizon:
    """Without `planner.shrinking_horizon`: plans look the whole horizon ahead, and only the top level plans for the goal."""

    def start(self, goal: Goal) -> None:
        pass

    def update_goal(self, goal: Goal, changed: Tensor) -> None:
        pass

    def select(self, rows: Tensor, goal: Goal) -> None:
        pass

    def observe(self, latents: Sequence[Tensor]) -> None:
        pass

    def may_plan_for_goal(self, k: int) -> bool:
        return False

    def target(self, k: int, target: Target, step: int) -> Target:
        return target

    def follows_subgoal(self, k: int, step: int) -> Tensor | None:
        return None

    def current_cost(self, k: int, latent: Tensor, cost: Tensor, step: int) -> Tensor:
        return cost

    def note_plan(self, k: int, predicted: Tensor, step: int) -> Tensor | None:
        return None
