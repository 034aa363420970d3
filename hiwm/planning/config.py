"""How to plan: section `planner` of a config."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from hiwm.settings import Settings, SettingsError

#: shipped strategies
STRATEGIES = {
    "search": "hiwm.planning.strategies.search.Search",
    "follow_inverse": "hiwm.planning.strategies.follow_inverse.FollowInverse",
    "hand_down": "hiwm.planning.strategies.hand_down.HandDown",
}


class ProposalConfig(Settings):
    """Where a level's search begins.

    Args:
        center: mean of the first candidates. gaussian: 0. inverse: the actions of the inverse model. retrieval: the sequence of the
            action bank that leads nearest to the target by the level's predictor, of those that started nearest to the present
            latent, by what the action encoder sees; as many are scored as a round of the search has candidates. flow: 0, and the
            candidates are noise that the level's action prior turns into macro-actions (see `hiwm.heads.action_prior`).
        std: standard deviation, in standard deviations of the level's actions in the data.
        candidates: what the first round also tries: the inverse model's actions (inverse), or the nearest real sequences in
            place of half of the candidates (retrieval).
    """

    center: Literal["gaussian", "inverse", "retrieval", "flow"] = "gaussian"
    std: float = Field(default=1.0, gt=0)
    candidates: Sequence[Literal["inverse", "retrieval"]] = ()

    @property
    def needs_inverse(self) -> bool:
        """Whether the proposal uses the inverse model."""
        return self.center == "inverse" or "inverse" in self.candidates

    @property
    def needs_bank(self) -> bool:
        """Whether the proposal uses sequences of the action bank."""
        return self.center == "retrieval" or "retrieval" in self.candidates


class LevelPlanning(Settings):
    """How one level plans. `configs/planner/level.yaml` has the same defaults, which a level without an entry gets.

    Args:
        strategy: search; follow_inverse: take the inverse model's actions without search; hand_down, at the top level: the target
            itself is the subgoal for the level below; or `_target_` and arguments of a `Strategy` of your own. Below, "search" is
            the shipped one: a strategy of your own has `proposal` and `action_repeat` if its constructor takes arguments of these
            names, and checks them itself.
        horizon: steps of the level that a plan looks ahead; a level's own `horizon` is the length of its training windows.
        replan: environment steps from one plan of the level to its next; null: as the level below, at level 0: 1.
        action_repeat: action repeat of a search: in environment steps at level 0, in the level's own steps at all other levels.
        proposal: where the search begins.
        goal_weight: weight of the goal's cost in the cost of a search, added to that of the subgoal, below the top level; null: 1 below a
            metric level if the level is metric too, because coarse subgoals alone lead it astray, else 0.
        value_weight: weight of the predicted number of steps to the goal in the cost of a search (see `hiwm.heads.value`); for
            goals on a part of the state.
        disagreement_weight: weight of an ensemble's expected squared error in the cost of a search, the largest up to the plan's
            cheapest step (see `Calibration.expected_error`). With 1 it weighs as much as a squared distance in the level's latents.
        support_weight: weight of the distance by which a plan has left the real latents; see `hiwm.planning.support`.
        support_margin: steps from the real latents that cost nothing; never less than twice their median spacing.
        support_inputs: compare the inputs that latents hold (encoder `beside_inputs`) instead of the latents, discrete ones one by one.
        check_subgoals: how many of the best plans the level below follows by its own model, to choose the one that gets nearest; 0: the
            best by the level's own model. See `hiwm.planning.reachability`.
        costs: more costs of a search: name -> `_target_` and arguments of a `Cost`.
    """

    strategy: str | Mapping[str, Any] = "search"
    horizon: int = Field(default=4, ge=1)
    replan: int | None = Field(default=None, ge=1)
    action_repeat: int = Field(default=1, ge=1)
    proposal: ProposalConfig = ProposalConfig()
    goal_weight: float | None = Field(default=None, ge=0)
    value_weight: float = Field(default=0.0, ge=0)
    disagreement_weight: float = Field(default=0.0, ge=0)
    support_weight: float = Field(default=0.0, ge=0)
    support_margin: float = Field(default=0.5, ge=0)
    support_inputs: bool = False
    check_subgoals: int = Field(default=0, ge=0)
    costs: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)

    @field_validator("strategy", mode="before")
    @classmethod
    def _known_strategy(cls, strategy: Any) -> Any:
        if not isinstance(strategy, Mapping) and strategy not in STRATEGIES:
            text = f"{{}} is {strategy!r}; expected {', '.join(STRATEGIES)}, or a mapping with the _target_ of your own"
            raise SettingsError((), text, "")
        return strategy

    @property
    def cost_weights(self) -> dict[str, float]:
        """Weights of the shipped costs by name, see `SHIPPED_COSTS`."""
        return {"value": self.value_weight, "disagreement": self.disagreement_weight, "support": self.support_weight}

    @property
    def has_more_costs(self) -> bool:
        """Whether a search minimises more than the distance to its target."""
        return bool(self.goal_weight or any(self.cost_weights.values()) or self.costs)


DEFAULTS = LevelPlanning()


class PlannerConfig(Settings):
    """How the hierarchy plans. Level k reads `level<k>`, or the defaults of `LevelPlanning` where there is none.

    Args:
        graph: what the top level does with its landmark graph. follow: it hands down the landmark `hops` edges ahead on the
            path to the goal, without a search; a single level searches for that landmark. search: it searches for that
            landmark. none: it plans for the goal itself.
        hops: number of edges from the current node to the landmark that is the target.
        failure_penalty: cost added to what failed before; 0: failures are only reported. On the graph it is added, in edges, to
            the first edge of the failed path and to the neighbours of that edge. For a searched subgoal it is a multiple of the
            cost of staying where the episode is, and holds until the episode ends.
        patience: a path has failed if, within this many times its deadline, the graph cost has not dropped or the subgoal has
            not been reached. The deadline of a searched subgoal is one step of its level, that of
            a landmark `hops` edges.
        budget: predictor calls per environment step and episode, shared evenly by the levels that search. A planner may take up
            to about 10 % more (208 to 213 were measured for 200), because numbers of candidates are rounded, and because the
            chosen plan and the inverse model's actions are predicted once more. A gradient solver gets fewer candidates,
            because a backward pass counts as two calls.
        cauchy_scale: cost of a goal on a part of the state: null for the squared distance in standard deviations of the data;
            else log(1 + (distance / cauchy_scale)^2) for each of its numbers, the distance in those standard deviations (the
            Cauchy or Lorentzian loss; Levine et al. 2016, arXiv 1504.00702, equation 4 add such a term for precision). A number
            that is nearly right is then finished before another one is begun.
        shrinking_horizon: whether a plan that meets the goal sets a deadline, which later plans may shorten but not extend, and
            lower levels plan for the goal itself near it; see `hiwm.planning.shrinking_horizon`.
        solver: the search method, one of `configs/solver/`, or `_target_` and arguments of a `Solver` of your own.
        discrete_solver: solver of level 0 for discrete actions, which are one-hot vectors.
        warm_start: whether a search also evaluates the candidates that the level's last search kept, shifted by the steps
            since; the proposal's mean fills the end of the horizon.
        milliseconds: additional time limit of one search, for the whole batch; null: none. A search stops before the round that
            would exceed it and keeps the best candidate so far, so plans are not reproducible. The budget still applies: to plan
            by time alone, raise it and the solver's iterations by the same factor.
    """

    model_config = ConfigDict(extra="allow")
    section: ClassVar[str] = "planner"
    __pydantic_extra__: dict[str, LevelPlanning]  # level0, level1, ...

    graph: Literal["none", "follow", "search"]
    hops: int = Field(ge=1)
    failure_penalty: float = Field(ge=0)
    patience: float = Field(ge=1)
    budget: float = Field(gt=0)
    cauchy_scale: float | None = Field(gt=0)
    shrinking_horizon: bool
    solver: Mapping[str, Any]
    discrete_solver: Mapping[str, Any] | None
    warm_start: bool
    milliseconds: float | None = Field(gt=0)

    @model_validator(mode="before")
    @classmethod
    def _level_names(cls, values: Any) -> Any:
        for key in values if isinstance(values, Mapping) else ():
            if key not in cls.model_fields and not re.fullmatch(r"level\d+", key):
                known = ", ".join([*cls.model_fields, "level0, level1, ..."])
                raise ValueError(f"unknown key planner.{key}; expected one of {known}")
        return values

    @model_validator(mode="after")
    def _graph_or_shrinking_horizon(self) -> PlannerConfig:
        if self.shrinking_horizon and self.graph != "none":
            raise ValueError(
                f"planner.shrinking_horizon is true; expected false with planner.graph {self.graph!r}, because the target is then "
                "usually a landmark, not the goal"
            )
        return self

    @property
    def seconds(self) -> float | None:
        """Time limit of one search; None for no limit."""
        return None if self.milliseconds is None else self.milliseconds / 1000

    @property
    def levels(self) -> list[int]:
        """Levels that have an entry."""
        return sorted(int(key.removeprefix("level")) for key in self.__pydantic_extra__)

    def level(self, k: int) -> LevelPlanning:
        """How level k plans."""
        return self.__pydantic_extra__.get(f"level{k}", DEFAULTS)

    def replan(self, k: int) -> int:
        """Environment steps between two plans of level k."""
        own = self.level(k).replan
        if own is not None:
            return own
        return self.replan(k - 1) if k else 1

    def strategy(self, k: int, top: int) -> str | Mapping[str, Any]:
        """How level k plans: a key of `STRATEGIES`, or `_target_` and arguments of a strategy of your own.

        With `graph` follow, the top level hands landmarks down as they are; a single level plans towards them by its own strategy.
        """
        return "hand_down" if self.graph == "follow" and k == top > 0 else self.level(k).strategy

    def with_goal_weights(self, metric: Sequence[bool]) -> PlannerConfig:
        """With a number for each `goal_weight`, given whether the latent distance of each level counts steps."""
        top = len(metric) - 1
        unset = [k for k in range(top + 1) if self.level(k).goal_weight is None]
        between = {k for k in range(top) if metric[k] and metric[k + 1] and self.strategy(k, top) == "search"}
        return self.changed({f"level{k}": {"goal_weight": float(k in between)} for k in unset})

    def of_levels(self, num_levels: int, changes: Mapping[str, Any]) -> PlannerConfig:
        """`changed`, for a planner with so many levels.

        Raises:
            ValueError: changes of a level that does not exist.
        """
        if absent := [key for key in changes if re.fullmatch(r"level\d+", key) and int(key[5:]) >= num_levels]:
            raise ValueError(absent_level(f"planner.{absent[0]}", num_levels))
        return self.changed(changes)


def absent_level(key: str, num_levels: int) -> str:
    """What is wrong with a key of a level that does not exist."""
    there = ", ".join(f"level{k}" for k in range(num_levels))
    return f"unknown key {key}; expected one of {there}, the levels that plan. Remove the key, or add the level"
