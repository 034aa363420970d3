"""Plans that ask inverse models: followed as they are, or where a search begins."""

from __future__ import annotations

import pytest
import torch
from planning_tools import (
    HIGH,
    LOW,
    Identity,
    begin,
    flat_planner,
    hierarchy_planner,
    per_level,
    points,
    search,
    start,
)

from hiwm.planning.goals import PartGoal
from hiwm.planning.strategies.follow_inverse import FollowInverse
from hiwm.planning.strategies.hand_down import HandDown

FOLLOW = per_level(strategy=["follow_inverse"] * 3)


def test_steps_left_count_down_with_the_age_of_the_subgoal_and_along_the_plan(agent, monkeypatch):
    asked = []
    above = agent.hierarchy.levels[1]
    infer_action = above.infer_action
    monkeypatch.setattr(
        above, "infer_action", lambda s, t, left: (asked.append(left[0].item()), infer_action(s, t, left))[1]
    )
    planner = hierarchy_planner(agent, per_level(replan=[1, 6, 6], horizon=[3, 2, 2]))
    start(planner, points(2))
    for expected in ([3, 2, 1], [2, 1, 1], [1, 1, 1]):
        asked.clear()
        planner.plan({"state": points(2, seed=1)})
        assert asked == expected  # level 1's subgoal is due 3 environment steps after it was planned


def test_a_search_around_the_inverse_models_actions_begins_at_them(agent):
    replan = per_level(replan=[5, 5, 10])
    follow = hierarchy_planner(agent, replan, FOLLOW)
    around = hierarchy_planner(agent, replan, FOLLOW, {"level0": search("inverse", std=1e-6)})
    first, second = (
        start(planner, points(3)).plan({"state": points(3, seed=1)}).levels[0] for planner in (follow, around)
    )
    torch.testing.assert_close(second.actions, first.actions, rtol=0, atol=1e-4)


def test_levels_that_follow_take_the_actions_that_are_asked_for(agent):
    planner = start(hierarchy_planner(agent, FOLLOW, hops=2), points(3, 2))
    assert [type(strategy) for strategy in planner.strategies] == [FollowInverse, FollowInverse, HandDown]
    plan = planner.plan({"state": points(3, 1)})
    for k in (0, 1):
        latent, level = agent.hierarchy.encode({"state": points(3, 1)})[k], plan.levels[k]
        period = planner.models[k].period
        left = plan.levels[k + 1].deadline / period
        for h in range(planner.models[k].horizon):
            steps = torch.full((3,), max(1.0, left - h))
            action = agent.hierarchy.levels[k + 1].infer_action(latent, level.target, steps)
            action = planner.models[k].actions.clamp(action)
            torch.testing.assert_close(level.actions[:, h], planner.models[k].executable(action.unsqueeze(1))[:, 0])
            latent = agent.hierarchy.levels[k].predict(latent, action)
            torch.testing.assert_close(level.predicted[:, h], latent)
        assert torch.equal(level.subgoal, level.predicted[:, 0])
        assert level.alternatives is None
    assert (plan.levels[0].actions >= LOW).all()
    assert (plan.levels[0].actions <= HIGH).all()
    # the node is handed down as it is
    top = plan.levels[2]
    assert top.deadline == 2 * agent.graphs[2].edge_steps
    assert top.subgoal is top.target
    torch.testing.assert_close(
        top.current_cost, (agent.hierarchy.encode({"state": points(3, 1)})[2] - top.target).square().sum(-1)
    )


def test_the_cost_of_a_followed_plan_is_its_least_distance_to_the_target(agent):
    planner = start(hierarchy_planner(agent, FOLLOW), points(3, 2))
    plan = planner.plan({"state": points(3, 1)})
    for k in (0, 1):
        level = plan.levels[k]
        above = agent.hierarchy.levels[k + 1].encode({"latent": level.predicted})
        torch.testing.assert_close(level.cost, (above - level.target.unsqueeze(1)).square().sum(-1).amin(1))
        assert torch.equal(level.cost, level.nearest)


@pytest.mark.parametrize("level", [{"strategy": "follow_inverse"}, search("inverse"), search("gaussian", "inverse")])
def test_an_inverse_model_cannot_be_asked_for_a_part(agent, level):
    flat = flat_planner(agent.hierarchy.truncate(1), level0=level)
    with pytest.raises(
        ValueError,
        match=r"the goal is a PartGoal; expected a whole observation, because planner.level0 plans towards one",
    ):
        begin(flat, PartGoal(torch.zeros(1, 2), [Identity()]))


def test_a_goal_is_handed_down_as_it_is(agent):
    gaussian = {"proposal": {"center": "gaussian", "std": 1.0}}
    config = {"graph": "none", "level0": gaussian, "level1": gaussian, "level2": {"strategy": "hand_down"}}
    planner = hierarchy_planner(agent, config)
    levels = start(planner, points(3, 2)).plan({"state": points(3, 1)}).levels
    goal = agent.hierarchy.encode({"state": points(3, 2)})[2]
    torch.testing.assert_close(levels[2].subgoal, goal)
    torch.testing.assert_close(levels[1].target, goal)
    with pytest.raises(ValueError, match=r"because planner.level2 plans towards one latent"):
        begin(planner, PartGoal(torch.zeros(1, 2), [Identity()] * 3))


def test_following_needs_an_inverse_model_of_the_level_above(agent):
    agent.hierarchy.levels[1].inverse = None
    with pytest.raises(ValueError, match=r"planner.level0.strategy is follow_inverse; .* because level 1 has none"):
        hierarchy_planner(agent, FOLLOW)


def test_a_followed_plan_clamps_its_actions_before_they_are_predicted(exact):
    planner = flat_planner(exact, level0={"strategy": "follow_inverse", "horizon": 2, "replan": 1, "action_repeat": 1})
    planner.models[0].inverses[0] = lambda latent, wanted, left: torch.full_like(latent, 9.0)
    plan = start(planner, points(2)).plan({"state": torch.zeros(2, 2)}).levels[0]
    assert torch.equal(plan.actions, torch.ones(2, 2, 2))
    torch.testing.assert_close(plan.predicted[:, 1], torch.full((2, 2), 0.1))
