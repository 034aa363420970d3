"""A level that plans by a number of steps, the sum of absolute differences, at every place that measures a distance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from planning_tools import GAUSSIAN, begin, hierarchy_planner, points, start

from hiwm.agent import Agent
from hiwm.config import load_config
from hiwm.heads.action_bank import mean_step
from hiwm.heads.state_readout import StateReadout
from hiwm.hierarchy import LevelSpec
from hiwm.planning.goals import ObservationGoal, PartGoal, StepsToGoal
from hiwm.planning.rollout import Rollout


def apart(a, b):
    return (a - b).abs().sum(-1)


@pytest.fixture
def metric(agent, monkeypatch):
    """The tiny hierarchy, whose upper levels plan by steps."""
    for level in agent.hierarchy.levels[1:]:
        monkeypatch.setattr(level, "metric", True)
    return agent


def power_of(regularizer):
    config = load_config([f"regularizer@levels.level1={regularizer}"]).levels["level1"]
    return LevelSpec(config, 3, {"latent": (4,)}, 2, "").build().p


def test_a_level_with_a_metric_regularizer_plans_by_steps():
    assert [power_of(name) for name in ("graph_distance", "step_distance", "temporal_distance")] == [1, 1, 1]
    assert [power_of(name) for name in ("laplacian", "sigreg")] == [2, 2]


def test_the_cost_of_a_step_is_a_mean_number_of_steps(metric):
    planner = hierarchy_planner(metric, GAUSSIAN, graph="none")
    for k, model in enumerate(planner.models):
        bank, level = metric.heads.action_banks[k], metric.hierarchy.levels[k]
        moved = level.predict(bank.start, bank.actions[:, 0]) - bank.start
        assert model.step_length == pytest.approx(moved.square().sum(-1).mean().sqrt().item())
        cost = moved.abs().sum(-1).mean() if k else moved.square().sum(-1).mean()
        assert model.step_cost == pytest.approx(cost.item())


def test_goals_and_subgoals_are_so_many_steps_away(metric):
    planner = begin(hierarchy_planner(metric, GAUSSIAN, graph="none"), metric.goal({"state": points(3, 2).numpy()}))
    levels = planner.plan({"state": points(3, 1)}).levels
    goal = metric.hierarchy.encode({"state": points(3, 2)})[2]
    torch.testing.assert_close(levels[2].nearest, apart(levels[2].predicted, goal.unsqueeze(1)).amin(1))
    above = metric.hierarchy.levels[1].encode({"latent": levels[0].predicted})
    torch.testing.assert_close(levels[0].nearest, apart(above, levels[0].target.unsqueeze(1)).amin(1))


def test_landmarks_are_so_many_steps_away(metric):
    planner = start(hierarchy_planner(metric, GAUSSIAN, graph="search"), points(3, 2))
    latent = metric.hierarchy.encode({"state": points(3, 1)})[2]
    target = planner.navigator.target(latent, 0)
    found = target.cost(Rollout(latent, torch.zeros(3, 1, 1, 2), latent[:, None, None]))
    torch.testing.assert_close(found[:, 0, 0], apart(latent, target.latent))


def test_goals_on_a_part_count_steps_without_a_graph(metric):
    readouts = [
        StateReadout(dim_latent=level.encoder.dim, dim=2, width=8, depth=1).eval() for level in metric.hierarchy.levels
    ]
    for readout in readouts:
        readout.prediction_error = torch.full((2,), 0.01)
    heads, spec = replace(metric.heads, readouts=readouts), replace(metric.spec, goal=["state"], goal_shapes=[[2]])
    changes = {"graph": "none", "shrinking_horizon": True, **GAUSSIAN}
    agent = Agent(metric.hierarchy, heads, metric.graphs, metric.config.changed(changes), spec)
    wanted = {"state": points(3, 2).numpy()}
    agent.reset(wanted)
    assert isinstance(agent.planner.goal, StepsToGoal)
    agent.act(points(3, 1).numpy())
    top, step = agent.plan.levels[2], mean_step(metric.hierarchy.levels[2], heads.action_banks[2], 1)
    goal, real = agent.planner.goal, heads.action_banks[2].start
    states = goal.states[2].where(goal.meets[2].unsqueeze(2), torch.inf)
    own = PartGoal(points(3, 2), readouts).cost(2, real.expand(3, -1, -1))
    limit = own.amin(1).maximum(PartGoal(points(3, 2), readouts).reached_cost(2))
    assert goal.meets[2].sum(1).tolist() == (own <= limit.unsqueeze(1)).sum(1).clamp_max(64).tolist()
    torch.testing.assert_close(top.nearest, goal.cost(2, top.predicted).amin(1))
    here = metric.hierarchy.encode({"state": points(3, 1)})[2]
    assert torch.equal(top.target, goal.nearest(2, here))
    torch.testing.assert_close(apart(top.target, here), apart(here.unsqueeze(1), states).amin(1))
    apart_from = apart(top.predicted.unsqueeze(2), states.unsqueeze(1)).amin(2)
    reached = PartGoal(points(3, 2), readouts).cost(2, top.predicted) <= PartGoal(points(3, 2), readouts).reached_cost(
        2
    ).unsqueeze(1)
    torch.testing.assert_close(goal.cost(2, top.predicted), apart_from.masked_fill(reached, 0))
    assert agent.planner.goal.reached_cost(2).tolist() == pytest.approx([step.item()] * 3)
    agent.reset(points(3, 2).numpy())  # a whole observation as an array is itself so many steps away
    assert isinstance(agent.planner.goal, ObservationGoal)
    assert agent.act(points(3, 1).numpy()).shape == (3, 2)
    handed = agent.with_planner(level2={"strategy": "hand_down"})
    handed.reset(wanted)
    handed.act(points(3, 1).numpy())
    assert torch.equal(handed.plan.levels[2].subgoal, top.target)
    followed = agent.with_planner(graph="follow", shrinking_horizon=False)
    followed.reset(wanted)
    assert isinstance(followed.planner.goal, PartGoal)
