"""The planner as a whole: which level plans when, towards what, and what it says of its plans."""

from __future__ import annotations

import pytest
import torch
from planning_tools import (
    GAUSSIAN,
    STEP,
    Identity,
    begin,
    flat_planner,
    hierarchy_planner,
    path_of,
    per_level,
    points,
    start,
    walk,
)

from hiwm.planning.goals import ObservationGoal, PartGoal, Waypoints


def test_a_flat_planner_with_exact_dynamics_reaches_its_goal(exact):
    position, goal = points(6, 1), points(6, 2)
    assert (position - goal).norm(dim=1).max() > 0.7  # fourteen steps of full length
    plans, path = path_of(start(flat_planner(exact), goal), position, 40)
    assert (path - goal).norm(dim=2).amin(0).max() < 0.05  # arrival ends an episode: the closest counts
    assert all(plan.action.abs().max() <= 1 for plan in plans)


def test_predictions_are_those_of_the_actions_and_the_cost_is_the_least_distance(exact):
    position, goal = points(3, 1), points(3, 2)
    plan = start(flat_planner(exact), goal).plan({"state": position}).levels[0]
    expected = position.unsqueeze(1) + STEP * plan.actions.cumsum(1)
    torch.testing.assert_close(plan.predicted, expected)
    torch.testing.assert_close(plan.cost, (expected - goal.unsqueeze(1)).square().sum(-1).amin(1))
    assert torch.equal(plan.subgoal, plan.predicted[:, 0])
    assert torch.equal(plan.target, goal)
    # a search holds an action for five steps
    assert torch.equal(plan.actions, plan.actions[:, ::5].repeat_interleave(5, 1))


def test_actions_stay_within_the_bounds_of_the_data(exact):
    bounds = torch.full((2,), -0.1), torch.full((2,), 0.2)
    planner = start(flat_planner(exact, bounds=bounds), points(4, 2))
    actions = torch.cat([plan.levels[0].actions for plan in walk(planner, points(4, 1), 6)[0]])
    assert actions.min() >= -0.1 - 1e-6
    assert actions.max() <= 0.2 + 1e-6
    assert actions.max() == pytest.approx(0.2)  # the bound is active


def test_a_level_keeps_its_plan_between_replans(agent):
    planner = start(hierarchy_planner(agent), points(2, 2))
    plans, _ = walk(planner, points(2, 1), 13)
    for k in range(3):
        every = planner.config.replan(k)
        for step, plan in enumerate(plans):
            level = plan.levels[k]
            assert level.level == k
            assert level.planned_at == step - step % every
            assert step == 0 or (level is plans[step - 1].levels[k]) == (step % every != 0)
    for step, plan in enumerate(plans):  # between replans the sequence of actions is played as planned
        assert torch.equal(plan.action, plan.levels[0].actions[:, step % 3])


def test_each_level_plans_towards_the_subgoal_of_the_level_above(agent):
    for graph in ("follow", "search", "none"):
        plan = start(hierarchy_planner(agent, graph=graph), points(2, 2)).plan({"state": points(2, 1)})
        for k in (0, 1):
            assert torch.equal(plan.levels[k].target, plan.levels[k + 1].subgoal)
            assert plan.levels[k].target_level == k + 1
        assert plan.levels[2].target_level == 2
        assert [level.deadline for level in plan.levels[:2]] == [1, 3]
        assert (plan.levels[2].actions is None) == (graph == "follow")


def test_selected_episodes_go_on_with_the_same_plans(agent):
    goal, state = points(5, 2), points(5, 1)
    for rows in (torch.tensor([0, 3]), torch.tensor([True, False, False, True, False])):
        planner = start(hierarchy_planner(agent), goal)
        (_, before), state_then = walk(planner, state, 2)
        planner.select(rows)
        after = planner.plan({"state": state_then[rows]})
        for old, new in zip(before.levels, after.levels, strict=True):
            assert torch.equal(old.target[rows], new.target)
            assert torch.equal(old.subgoal[rows], new.subgoal)
            if old.actions is not None:
                assert torch.equal(old.actions[rows], new.actions)
                assert torch.equal(old.predicted[rows], new.predicted)
            assert old.planned_at == new.planned_at == 0
        assert torch.equal(after.action, before.levels[0].actions[rows, 2])
        # later plans are for the goals of those that were selected
        assert torch.equal(planner.goal.latent(2), agent.hierarchy.encode({"state": goal})[-1][rows])
        plans, _ = walk(planner, state_then[rows], 8)
        assert plans[-1].action.shape == (2, 2)
        assert plans[-1].levels[2].planned_at == 6


def test_the_tensors_of_a_plan_allow_gradients(agent):
    planner = start(hierarchy_planner(agent, graph="none"), points(2))
    plan = planner.plan({"state": points(2, seed=1)})
    values = [value for level in plan.levels for value in vars(level).values()]
    records = [level.alternatives for level in plan.levels if level.alternatives is not None]
    values += [value for record in records for value in vars(record).values()]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    assert len(tensors) > 20
    assert not any(tensor.is_inference() for tensor in tensors)


def test_the_same_seed_gives_the_same_actions(agent):
    runs = []
    for seed in (0, 0, 1):
        plans, _ = walk(start(hierarchy_planner(agent), points(3, 2), seed), points(3, 1), 7)
        runs.append(torch.stack([plan.action for plan in plans]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_goal_on_a_part_of_the_state_leaves_the_rest_alone(exact):
    position = torch.tensor([[0.1, 0.2], [0.9, 0.8]])
    goal = PartGoal(torch.tensor([[0.8, torch.nan], [0.2, torch.nan]]), [Identity()])
    plans, path = path_of(begin(flat_planner(exact), goal), position, 60)
    plan = plans[0].levels[0]
    assert plan.target is None
    torch.testing.assert_close(plan.cost, (plan.predicted[..., 0] - goal.part[:, :1]).square().amin(1))
    assert (path[..., 0] - goal.part[:, 0]).abs().amin(0).max() < 0.05


def test_waypoints_are_visited_in_order(exact):
    first, second = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.2, 0.8]])
    goal = Waypoints([ObservationGoal([point]) for point in (first, second)], tolerance=0.05**2)
    planner = begin(flat_planner(exact, level0={"replan": 1}, budget=1000), goal)
    _, path = path_of(planner, torch.tensor([[0.2, 0.2]]), 60)
    reached = [int((path - point).norm(dim=-1).argmin()) for point in (first, second)]
    assert reached[0] < reached[1]
    assert all((path - point).norm(dim=-1).min() < 0.06 for point in (first, second))


def test_the_budget_is_shared_by_the_levels_that_search_in_proportion_to_their_periods(agent):
    planner = hierarchy_planner(agent, GAUSSIAN, per_level(replan=[1, 3, 9]), graph="none", budget=600)
    assert planner.budgets == [200, 600, 1800]
    planner = hierarchy_planner(agent, GAUSSIAN, per_level(replan=[1, 3, 9]), graph="follow", budget=600)
    assert planner.budgets[:2] == [300, 900]
