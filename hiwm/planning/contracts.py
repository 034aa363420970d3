"""Checks the results of user-defined costs and strategies. Every error names the key of the config."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import Tensor

from hiwm.planning.costs import Cost
from hiwm.planning.goals import Goal
from hiwm.planning.rollout import Rollout
from hiwm.planning.strategies.strategy import Decision

BUDGET_TOLERANCE = 1.1  # times its share: a whole number of candidates may round up


class CheckedCost(Cost):
    """A custom cost, whose results are checked.

    NaN is detected on the device and reported later by `raise_if_nan`, because checking each result would synchronise.

    Args:
        key: of the config that names the cost.
        cost: the cost.
    """

    def __init__(self, key: str, cost: Cost) -> None:
        self.key, self.cost = key, cost
        #: whether a result was NaN since the last report, (); None without results
        self.nan: Tensor | None = None

    def start(self, goal: Goal) -> None:
        self.nan = None
        self.cost.start(goal)

    def __call__(self, rollout: Rollout) -> Tensor:
        cost, shape = self.cost(rollout), rollout.latents.shape[:3]
        if not isinstance(cost, Tensor) or cost.shape != shape:
            raise ValueError(
                f"{self.key} returns a value {_kind(cost)}; expected a tensor of the shape {tuple(shape)}, one number per candidate and step"
            )
        # a model that predicts NaN is not the cost's fault
        nan = (cost.isnan() & ~rollout.latents.isnan().any(-1)).any()
        self.nan = nan if self.nan is None else self.nan | nan
        return cost

    def raise_if_nan(self) -> None:
        """Raise a ValueError if a result was NaN since the last call."""
        nan, self.nan = self.nan, None
        if nan is not None and nan.item():
            raise ValueError(
                f"{self.key} is NaN for some candidates; expected a number for every step. inf excludes a step, and a plan only if "
                "all its steps are inf; a constraint (Goal.violation) excludes plans"
            )


def _kind(value: object) -> str:
    return f"of the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"of the type {type(value).__name__}"


def raise_if_nan(costs: Iterable[Cost]) -> None:
    """Raise a ValueError if a custom cost was NaN since the last call."""
    for cost in costs:
        if isinstance(cost, CheckedCost):
            cost.raise_if_nan()


def check_decision(k: int, decision: Decision, latent: Tensor, horizon: int, steps: int) -> None:
    """Raise a ValueError if level k cannot carry out what its strategy decided.

    Args:
        k: the level.
        decision: what the strategy returned.
        latent: where the episodes are, (B, D).
        horizon: steps of the level that a plan looks ahead at most.
        steps: of level 0 until its next plan.
    """
    what = f"planner.level{k}.strategy returns"
    if not isinstance(decision, Decision):
        raise ValueError(f"{what} a {type(decision).__name__}; expected a Decision")
    subgoal, deadline, rollout = decision.subgoal, decision.deadline, decision.rollout
    if not isinstance(subgoal, Tensor) or subgoal.shape != latent.shape:
        raise ValueError(
            f"{what} a subgoal {_kind(subgoal)}; expected {tuple(latent.shape)}, a latent of level {k} per episode"
        )
    if not isinstance(deadline, int) or deadline < 1:
        raise ValueError(f"{what} the deadline {deadline!r}; expected a whole number of environment steps, at least 1")
    if rollout is None:
        if k == 0:
            raise ValueError(f"{what} no rollout; expected one, because level 0 acts")
        return
    if not isinstance(rollout, Rollout):
        raise ValueError(f"{what} a rollout {_kind(rollout)}; expected a Rollout")
    size, dim = latent.shape
    for name, values in (("actions", rollout.actions), ("latents", rollout.latents)):
        if not isinstance(values, Tensor) or values.dim() != 4 or values.shape[:2] != (size, 1):
            raise ValueError(
                f"{what} a rollout with {name} {_kind(values)}; expected ({size}, 1, H, ...), the chosen candidate of each episode"
            )
    if rollout.latents.shape[2:] != (rollout.actions.shape[2], dim):
        raise ValueError(
            f"{what} a rollout with latents {_kind(rollout.latents)}; expected "
            f"{(size, 1, rollout.actions.shape[2], dim)}, a latent after each action"
        )
    if rollout.actions.shape[2] > horizon:
        raise ValueError(
            f"{what} a plan of {rollout.actions.shape[2]} steps; expected at most planner.level{k}.horizon, {horizon}"
        )
    if k == 0 and rollout.actions.shape[2] < steps:
        raise ValueError(
            f"{what} a plan of {rollout.actions.shape[2]} steps; expected at least {steps}, until the next plan "
            "(planner.level0.replan)"
        )


def warn_if_over_budget(k: int, spent: float, calls: float, warned: set[int]) -> None:
    """Warn once if a plan of level k took more predictor calls per episode than its share of the budget.

    Args:
        k: the level.
        spent: calls that the plan took.
        calls: its share.
        warned: levels that have been warned of; k is added.
    """
    if spent > BUDGET_TOLERANCE * calls and k not in warned:
        warned.add(k)
        warnings.warn(
            f"planner.level{k}.strategy took {spent:.0f} predictor calls per episode in one plan; expected at most {calls:.0f}, "
            "`problem.budget`. Comparisons at equal compute no longer hold",
            stacklevel=2,
        )
