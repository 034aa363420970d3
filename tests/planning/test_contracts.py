"""What costs and strategies of the user's own return."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from planning_tools import flat_planner, hierarchy_planner, points, start

from hiwm.planning.contracts import CheckedCost, check_decision, warn_if_over_budget
from hiwm.planning.costs import Cost
from hiwm.planning.rollout import Rollout
from hiwm.planning.strategies.strategy import Decision, Strategy

TRUSTED = ["test_contracts"]
LATENT = torch.zeros(3, 2)
HORIZON = 20


class Broken(Cost):
    """A cost that is NaN where a latent is to the right of a border."""

    def __init__(self, *, border):
        self.border = border

    def __call__(self, rollout):
        return torch.where(rollout.latents[..., 0] > self.border, torch.nan, 0.0)


class Returns(Strategy):
    """Decides what it is given."""

    decision = None

    def plan(self, problem):
        return self.decision


class Wasteful(Strategy):
    """Predicts the same candidates `times` times."""

    def __init__(self, *, times):
        self.times = times

    def plan(self, problem):
        actions = torch.zeros(len(problem.latent), 10, problem.model.horizon, problem.model.actions.dim)
        for _ in range(self.times):
            rollout = problem.rollout(actions)
        one = (rollout.actions[:, :1], rollout.latents[:, :1])
        return Decision.of(problem.model, Rollout(problem.latent, *one))


def broken(border):
    return {"costs": {"mine": {"_target_": "test_contracts.Broken", "border": border}}}


def own(name, **arguments):
    return {"strategy": {"_target_": f"test_contracts.{name}", **arguments}}


def decision(horizon=4, candidates=1, **changes):
    actions, latents = torch.zeros(3, candidates, horizon, 5), torch.zeros(3, candidates, horizon, 2)
    return replace(Decision(LATENT, 1, Rollout(LATENT, actions, latents)), **changes)


@pytest.mark.parametrize("border", [-100.0, 0.5])  # for all candidates, for some
def test_a_cost_that_is_nan_is_refused_by_its_key(border, exact):
    planner = start(flat_planner(exact, level0=broken(border), allow=TRUSTED), points(3))
    with pytest.raises(
        ValueError, match=r"planner.level0.costs.mine is NaN for some candidates; expected a number for every step"
    ):
        planner.plan({"state": torch.full((3, 2), 0.45)})
    # the next episodes begin without that
    start(planner, points(3))
    planner.costs[0]["mine"].cost.border = 100.0
    planner.plan({"state": torch.full((3, 2), 0.45)})


def test_a_cost_that_is_nan_at_an_upper_level_is_refused_by_its_key(agent):
    planner = hierarchy_planner(agent, {"level1": broken(-100.0)}, graph="none", allow=TRUSTED)
    with pytest.raises(ValueError, match=r"planner.level1.costs.mine is NaN"):
        start(planner, points(3)).plan({"state": points(3)})


def test_a_model_that_predicts_nan_is_not_the_fault_of_a_cost():
    cost = CheckedCost("key", Broken(border=0.5))
    latents = torch.tensor([0.0, torch.nan]).reshape(1, 2, 1, 1)
    cost(Rollout(torch.zeros(1, 1), latents, latents))
    cost.raise_if_nan()
    cost(Rollout(torch.zeros(1, 1), latents, torch.ones_like(latents)))
    with pytest.raises(ValueError, match="key is NaN"):
        cost.raise_if_nan()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.zeros(3, 2), r"^key returns a value of the shape \(3, 2\); expected a tensor of the shape \(3, 2, 4\)"),
        (None, r"^key returns a value of the type NoneType; expected a tensor"),
        (0.5, r"^key returns a value of the type float; expected a tensor"),
    ],
)
def test_a_cost_returns_a_number_per_candidate_and_step(result, message):
    class Other(Cost):
        def __call__(self, rollout):
            return result

    with pytest.raises(ValueError, match=message):
        CheckedCost("key", Other())(Rollout(LATENT, torch.zeros(3, 2, 4, 5), torch.zeros(3, 2, 4, 2)))


def test_a_decision_can_be_carried_out():
    check_decision(0, decision(), LATENT, 4, 4)
    check_decision(1, decision(), LATENT, 4, 5)
    check_decision(1, decision(rollout=None), LATENT, 4, 5)  # a level above may hand down a latent as it is


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "returns a NoneType; expected a Decision"),
        (decision(subgoal=torch.zeros(3, 7)), r"returns a subgoal of the shape \(3, 7\); expected \(3, 2\)"),
        (decision(subgoal=torch.zeros(1, 2)), r"returns a subgoal of the shape \(1, 2\); expected \(3, 2\)"),
        (decision(subgoal=None), r"returns a subgoal of the type NoneType; expected \(3, 2\)"),
        (decision(deadline=0), "returns the deadline 0; expected a whole number of environment steps, at least 1"),
        (decision(deadline=-3), "returns the deadline -3; expected"),
        (decision(deadline=None), "returns the deadline None; expected"),
        (decision(rollout=LATENT), r"returns a rollout of the shape \(3, 2\); expected a Rollout"),
        (
            decision(rollout=Rollout(LATENT, torch.zeros(3, 1, 4, 5), None)),
            r"returns a rollout with latents of the type NoneType; expected \(3, 1, H, ...\)",
        ),
        (decision(rollout=None), "returns no rollout; expected one, because level 0 acts"),
        (
            decision(candidates=2),
            r"returns a rollout with actions of the shape \(3, 2, 4, 5\); expected \(3, 1, H, ...\)",
        ),
        (
            decision(rollout=Rollout(LATENT, torch.zeros(3, 1, 4, 5), torch.zeros(3, 1, 3, 2))),
            r"returns a rollout with latents of the shape \(3, 1, 3, 2\); expected \(3, 1, 4, 2\)",
        ),
        (decision(horizon=3), "returns a plan of 3 steps; expected at least 4, until the next plan"),
        (
            decision(horizon=HORIZON + 1),
            f"returns a plan of {HORIZON + 1} steps; expected at most planner.level0.horizon, {HORIZON}",
        ),
    ],
)
def test_a_decision_that_cannot_be_carried_out_is_refused_by_its_key(made, message, exact, monkeypatch):
    with pytest.raises(ValueError, match=f"^planner.level0.strategy {message}"):
        check_decision(0, made, LATENT, HORIZON, 4)
    monkeypatch.setattr(Returns, "decision", made)
    planner = start(
        flat_planner(exact, level0=own("Returns") | {"replan": 4, "horizon": HORIZON}, allow=TRUSTED), points(3)
    )
    with pytest.raises(ValueError, match=f"^planner.level0.strategy {message}"):
        planner.plan({"state": points(3)})


class LooksTooFar(Strategy):
    """Predicts one step more than the horizon, at once or step by step."""

    def __init__(self, *, at_once):
        self.at_once = at_once

    def plan(self, problem):
        steps, dim = problem.model.horizon + 1, problem.model.actions.dim
        if self.at_once:
            problem.rollout(torch.zeros(len(problem.latent), 1, steps, dim))
        rollout = problem.root()
        for _ in range(steps):
            rollout = problem.extend(rollout, torch.zeros(len(problem.latent), 1, dim))


@pytest.mark.parametrize("at_once", [True, False])
def test_a_strategy_cannot_look_further_than_the_horizon(exact, at_once):
    made = flat_planner(exact, level0={**own("LooksTooFar", at_once=at_once), "horizon": HORIZON}, allow=TRUSTED)
    message = (
        f"planner.level0.strategy predicts {HORIZON + 1} steps; expected at most planner.level0.horizon, {HORIZON}"
    )
    with pytest.raises(ValueError, match=message):
        start(made, points(3)).plan({"state": points(3)})


def test_a_strategy_that_exceeds_its_budget_is_named_once(exact):
    planner = start(flat_planner(exact, level0=own("Wasteful", times=6), allow=TRUSTED), points(3))
    message = r"planner.level0.strategy took 1200 predictor calls per episode in one plan; expected at most 1000"
    with pytest.warns(UserWarning, match=message):
        planner.plan({"state": points(3)})
    for _ in range(5):
        planner.plan({"state": points(3)})  # warnings are errors in these tests
    start(flat_planner(exact, level0=own("Wasteful", times=5), allow=TRUSTED), points(3)).plan({"state": points(3)})


def test_rounding_is_no_excess():
    warned = set()
    warn_if_over_budget(1, 105.0, 100.0, warned)
    assert not warned
