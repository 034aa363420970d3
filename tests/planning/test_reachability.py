"""Plans are chosen by where the level below gets when it follows them."""

from __future__ import annotations

import pytest
import torch
from planning_tools import GAUSSIAN, hierarchy_planner, points, start

from hiwm.planning.reachability import ReachabilityCheck

CHECKED = {"graph": "none", "level1": {"check_subgoals": 6}}


def plan(agent, *changes, number=5):
    planner = start(hierarchy_planner(agent, GAUSSIAN, {"graph": "none"}, *changes), points(number, 2))
    return planner.plan({"state": points(number, 1)})


@pytest.fixture
def seen(monkeypatch):
    """What the check of a plan is asked: the check, the problem, the plans (B, N, H, D), and latents of the level below."""
    asked, followed = [], ReachabilityCheck.followed

    def spy(check, problem, plans, latent_below):
        asked.append((check, problem, plans, latent_below))
        return followed(check, problem, plans, latent_below)

    monkeypatch.setattr(ReachabilityCheck, "followed", spy)
    return asked


def test_the_level_below_follows_one_latent_after_another(agent, seen):
    plan(agent, CHECKED)
    ((check, problem, plans, latent_below),) = seen
    reached = check.followed(problem, plans, latent_below)
    level, below = agent.hierarchy.levels[1], agent.hierarchy.levels[0]
    for row, number in ((0, 0), (3, 4)):
        latent = latent_below[row : row + 1]
        for h in range(plans.shape[2]):
            for left in range(level.stride, 0, -1):
                action = level.infer_action(latent, plans[row : row + 1, number, h], torch.tensor([float(left)]))
                latent = below.predict(latent, check.below.actions.clamp(action))
            expected = level.encode({"latent": latent})
            torch.testing.assert_close(reached[row, number, h], expected[0])


def test_a_plan_that_the_level_below_cannot_follow_is_not_chosen(agent, monkeypatch):
    best = plan(agent).levels[1]

    def stuck(check, problem, plans, latent_below):
        """The first plan, the search's best, does not get away from the start."""
        here = problem.latent[:, None, None].expand(-1, 1, plans.shape[2], -1)
        return torch.cat([here, plans[:, 1:]], 1)

    monkeypatch.setattr(ReachabilityCheck, "followed", stuck)
    other = plan(agent, CHECKED, {"budget": 10_000}).levels[1]
    assert best.cost is not None
    assert other.alternatives is not None
    cheaper = other.alternatives.cost < other.cost.unsqueeze(1)
    assert cheaper.any(1).all()
    text = other.explain(0)
    assert "but the level below gets less far by it" in text


def test_a_plan_that_the_level_below_follows_stays(agent, monkeypatch):
    monkeypatch.setattr(ReachabilityCheck, "followed", lambda check, problem, plans, below: plans)
    found = plan(agent, CHECKED).levels[1]
    assert (found.cost.unsqueeze(1) <= found.alternatives.cost + 1e-5).all()


def test_the_check_keeps_the_budget(agent):
    changes = {"budget": 300.0}
    planner = hierarchy_planner(agent, GAUSSIAN, CHECKED, changes)
    without = hierarchy_planner(agent, GAUSSIAN, {"graph": "none"}, changes)
    check = planner.reachability[1]
    assert without.reachability == {}
    horizon, stride = planner.models[1].horizon, agent.hierarchy.levels[1].stride
    assert check.calls == 6 * horizon * (1 + stride)
    assert [a - b for a, b in zip(without.budgets, planner.budgets, strict=True)] == [0, check.calls, 0]
    with pytest.raises(
        ValueError, match=r"planner.budget gives level 1 -?\d+ candidates .* or lower .*planner.level1.check_subgoals"
    ):
        hierarchy_planner(agent, GAUSSIAN, CHECKED, {"level1": {"check_subgoals": 1000}})


def test_there_may_be_fewer_distinct_plans_than_are_asked_for(agent):
    found = plan(agent, CHECKED, {"level1": {"check_subgoals": 60}, "budget": 30_000}).levels[1]
    assert found.predicted.isfinite().all()
    assert found.cost.isfinite().all()


def test_a_level_without_an_inverse_model_cannot_be_followed(agent, monkeypatch):
    monkeypatch.setattr(agent.hierarchy.levels[1], "inverse", None)
    with pytest.raises(ValueError, match=r"planner.level1.check_subgoals is 6; expected 0, because level 1 has no inv"):
        hierarchy_planner(agent, GAUSSIAN, CHECKED)
