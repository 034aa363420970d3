"""Protocol of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from hiwm.checks import file_name
from hiwm.planning.config import PlannerConfig
from hiwm.settings import Settings

HIERARCHICAL = "hierarchical"  # name of the agent whose levels the baselines share
AtLeastOne = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Box:
    """A box in the part of the state that goals are about.

    Args:
        low, high: bounds in units of the data, (G,).
    """

    low: Sequence[float]
    high: Sequence[float]

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Which points lie in the box, (N, G) -> (N,)."""
        return np.all((points >= np.array(self.low)) & (points <= np.array(self.high)), axis=1)


class Forbidden(Settings):
    """A box in the part of the state that goals are about (`goal.columns`).

    Args:
        low, high: bounds of the box in units of the data, one number for each element of the part; empty for no box.
        margin: distance that planners keep from the box, in standard deviations of the data; null: planners do not know
            the box, and entries are only counted.
    """

    section: ClassVar[str] = "evaluation.forbidden"

    low: list[float]
    high: list[float]
    margin: float | None = Field(ge=0)

    @model_validator(mode="after")
    def _check(self) -> Forbidden:
        if len(self.low) != len(self.high):
            raise ValueError(
                f"evaluation.forbidden.low is {self.low}, evaluation.forbidden.high is {self.high}; expected lists of one length"
            )
        return self

    @property
    def box(self) -> Box | None:
        """The box, or None if nothing is forbidden."""
        return Box(self.low, self.high) if self.low else None


class EvaluationConfig(Settings):
    """Protocol of an evaluation, one of `configs/evaluation/`.

    Args:
        name: the results are saved in `<name>.json`, the recorded episodes in `<name>.npz`.
        num_tasks: evaluate the tasks 1 to `num_tasks` of the environment.
        episodes: episodes per task of the hierarchical agent.
        baseline_episodes: episodes per task of each baseline.
        max_steps: maximum length of an episode, environment steps.
        num_envs: episodes that run together and share planning calls. An agent with an edge memory (a graph and
            `planner.failure_penalty`) runs one at a time.
        seed: seed of starts and goals.
        baseline_budget: predictor calls of the baselines, as a multiple of the hierarchical agent's.
        environment: arguments of the environment that differ from those used to collect the data.
        attempts: attempts per episode. Later attempts keep what earlier ones learned (`planner.failure_penalty`). Attempt n has
            the starts and goals of seed + n - 1.
        edge_memory: folder that the edge memories are loaded from and saved to; null: start without any and save none.
            Each episode has its own edge memory.
        forbidden: box whose entries are counted and which planners avoid.
        goal: `_target_` and arguments of a class or function that makes the goals: it is given `agent` and `observation` (the
            goal observations of a batch of episodes) and returns a `Goal`. null: the observations are the goals.
        baselines: agent -> planner keys that differ from the hierarchical agent's, plus `num_levels` and the `margin` of
            the forbidden box.
    """

    section: ClassVar[str] = "evaluation"

    name: str
    num_tasks: AtLeastOne
    episodes: AtLeastOne
    baseline_episodes: AtLeastOne
    max_steps: AtLeastOne
    num_envs: AtLeastOne
    seed: int
    baseline_budget: float = Field(ge=0)
    environment: dict[str, Any]
    attempts: AtLeastOne
    edge_memory: str | None
    forbidden: Forbidden
    goal: dict[str, Any] | None
    baselines: dict[str, dict[str, Any]]

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return file_name("evaluation.name", name)

    @field_validator("baselines")
    @classmethod
    def _check_baselines(cls, baselines: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, changes in baselines.items():
            file_name("evaluation.baselines: the name", name)  # of the folder of its episodes
            if name == HIERARCHICAL:
                raise ValueError(
                    f"evaluation.baselines has {name!r}, the name of the hierarchical agent; expected another name"
                )
            margin = changes.get("margin")
            if margin is not None and (
                not isinstance(margin, int | float) or isinstance(margin, bool) or not margin >= 0
            ):
                raise ValueError(
                    f"evaluation.baselines.{name}.margin is {margin!r}; expected null or a number of at least 0"
                )
        return baselines

    @model_validator(mode="after")
    def _check_margins(self) -> EvaluationConfig:
        for name, changes in self.baselines.items():
            if changes.get("margin") is not None and self.forbidden.box is None:
                raise ValueError(
                    f"evaluation.baselines.{name}.margin is {changes['margin']}; expected none, because evaluation.forbidden has no box"
                )
        return self

    def margin(self, agent: str) -> float | None:
        """Margin that an agent keeps from the forbidden box; None if it does not know of one."""
        if self.forbidden.box is None:
            return None
        return self.baselines.get(agent, {}).get("margin", self.forbidden.margin)

    def planner_of(self, baseline: str, planner: PlannerConfig, num_levels: int) -> tuple[PlannerConfig, int]:
        """How a baseline plans and with how many levels, from the hierarchical agent's planner and number of levels.

        Raises:
            ValueError: an unknown key, a value out of range, or a level that the baseline does not have.
        """
        changes = {"budget": planner.budget * self.baseline_budget, **self.baselines[baseline]}
        levels = changes.pop("num_levels", num_levels)
        if not isinstance(levels, int) or not 1 <= levels <= num_levels:
            raise ValueError(f"num_levels is {levels!r}; expected 1 to {num_levels}")
        changes.pop("margin", None)
        return planner.of_levels(levels, changes), levels
