"""Observations in, actions out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hiwm
from hiwm.data.store import open_dataset
from hiwm.planning.goals import Goal

RNG = np.random.default_rng(0)
GOALS = RNG.uniform(0, 1, (4, 2)).astype(np.float32)
STATES = RNG.uniform(0, 1, (4, 2)).astype(np.float32)


def acted(agent, steps=5, goal=GOALS, state=STATES):
    agent.reset(goal)
    return np.stack([agent.act(state) for _ in range(steps)])


def test_public_names(agent, tiny_run):
    assert hiwm.load_agent.__module__ == "hiwm.agent"
    assert isinstance(hiwm.load_agent(str(tiny_run.folder / "hierarchy")), hiwm.Agent)
    agent.reset(GOALS[0])
    agent.act(STATES[0])
    assert isinstance(agent.plan, hiwm.Plan)
    with pytest.raises(AttributeError, match="load_agents"):
        hiwm.load_agents  # noqa: B018


def test_single_and_batch(agent):
    batch = acted(agent)
    assert isinstance(batch, np.ndarray)
    assert batch.shape == (5, 4, 2)
    assert batch.dtype == np.float32
    single = acted(agent, goal=GOALS[1], state=STATES[1])
    assert single.shape == (5, 2)
    of_one = acted(agent, goal=GOALS[1:2], state=STATES[1:2])
    assert of_one.shape == (5, 1, 2)
    np.testing.assert_array_equal(single, of_one[:, 0])
    assert agent.plan.action.shape == (1, 2)
    assert [part.subgoal.shape for part in agent.plan.levels] == [(1, 2), (1, 4), (1, 4)]


def test_an_episode_of_a_batch_does_as_it_would_alone(agent):
    inverse = {"strategy": "follow_inverse"}
    agent = agent.with_planner(
        level0=inverse, level1=inverse
    )  # without the random numbers, whose stream an episode's number decides
    np.testing.assert_allclose(acted(agent)[:, 2], acted(agent, goal=GOALS[2], state=STATES[2]), atol=1e-5)


def test_forms_of_observations(agent):
    wanted = acted(agent)
    np.testing.assert_array_equal(acted(agent, goal={"state": GOALS}, state={"state": STATES}), wanted)
    np.testing.assert_array_equal(acted(agent, goal=GOALS.astype(np.float64), state=STATES.astype(np.float64)), wanted)
    extra = {"state": STATES, "time": np.zeros(4)}  # what is no input is left alone
    np.testing.assert_array_equal(acted(agent, state=extra), wanted)
    one = acted(agent, goal=GOALS[0].tolist(), state=STATES[0].tolist())
    np.testing.assert_array_equal(one, acted(agent, goal=GOALS[0], state=STATES[0]))


def test_actions_are_within_those_of_the_data(agent, tiny_run):
    low, high = np.array(agent.spec.action_low), np.array(agent.spec.action_high)
    data = open_dataset(tiny_run.config.dataset.path).column("action")
    np.testing.assert_allclose(low, data.min(0))
    np.testing.assert_allclose(high, data.max(0))
    actions = acted(agent, 20)
    assert (actions >= low - 1e-6).all()
    assert (actions <= high + 1e-6).all()


def test_act_before_reset_is_refused(agent):
    with pytest.raises(ValueError, match="reset"):
        agent.act(STATES)
    with pytest.raises(ValueError, match=r"reset\(goal\) must come before select"):
        agent.select(np.array([0]))
    with pytest.raises(ValueError, match="act"):
        agent.plan  # noqa: B018
    agent.reset(GOALS)
    with pytest.raises(ValueError, match="act"):
        agent.plan  # noqa: B018


@pytest.mark.parametrize("episodes", [None, [0, 1]])
def test_a_goal_that_is_refused_leaves_no_episode(agent, episodes):
    class NoError(Goal):
        size = 2

        def cost(self, level, latent):
            return latent[..., 0]

        def select(self, rows):
            return self

    agent = agent.with_planner(shrinking_horizon=True, graph="none")
    acted(agent, 1)
    with pytest.raises(ValueError, match=r"expected false, or a goal that does|episodes has 2 numbers"):
        agent.reset(NoError() if episodes is None else GOALS, episodes)
    with pytest.raises(ValueError, match=r"reset\(goal\) must come before act"):
        agent.act(STATES)
    with pytest.raises(ValueError, match="no plan"):
        agent.plan  # noqa: B018


def test_there_is_no_plan_for_the_environments_that_are_left_until_the_next_act(agent):
    acted(agent, 1)
    agent.select(np.array([0, 2]))
    with pytest.raises(ValueError, match=r"no plan since the last reset\(\) or select\(\); call act"):
        agent.plan  # noqa: B018
    agent.act(STATES[[0, 2]])
    assert agent.plan.action.shape == (2, 2)


@pytest.mark.parametrize("observation", [STATES[:3], STATES[:1], STATES[0]])
def test_another_batch_than_the_goals_is_refused(agent, observation):
    agent.reset(GOALS)
    with pytest.raises(ValueError, match=r"expected a batch of 4, like the goal of reset\(\)"):
        agent.act(observation)


def test_single_after_a_single_goal_only(agent):
    agent.reset(GOALS[0])
    with pytest.raises(
        ValueError, match="the observation is a batch of 1; expected a single one, like the goal of reset"
    ):
        agent.act(STATES[:1])


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 2), ()])
def test_another_shape_is_refused(agent, shape):
    with pytest.raises(ValueError, match=r"state has the shape .*tiny\.TinyRoom"):
        agent.reset(np.zeros(shape, np.float32))


def test_a_missing_input_is_named(agent):
    with pytest.raises(ValueError, match=r"the observation has \['pixels'\]; expected \['state'\]"):
        agent.reset({"pixels": GOALS})


@pytest.mark.parametrize("rows", [np.array([0, 2]), np.array([True, False, True, False])])
def test_select(agent, rows):
    agent.reset(GOALS)
    agent.act(STATES)
    planned = agent.plan.levels[0].actions
    agent.select(rows)
    with pytest.raises(
        ValueError, match="the observation is a batch of 4; expected a batch of 2, like the goal of reset"
    ):
        agent.act(STATES)
    action = agent.act(STATES[[0, 2]])
    np.testing.assert_array_equal(action, planned[[0, 2], 1])


def test_reset_begins_anew(agent):
    np.testing.assert_array_equal(acted(agent), acted(agent))


def test_with_planner(agent):
    before = acted(agent)
    level0 = {"horizon": 10, "replan": 5, "action_repeat": 5, "proposal": {"center": "gaussian", "std": 0.7}}
    flat = agent.with_planner(num_levels=1, graph="none", level0=level0)
    assert len(flat.hierarchy) == 1
    assert flat.config.level(0).horizon == 10
    assert flat.config.budget == agent.config.budget
    assert acted(flat).shape == before.shape
    assert len(flat.plan.levels) == 1
    assert len(agent.hierarchy) == 3  # the agent it came from is as it was
    np.testing.assert_array_equal(acted(agent), before)
    with pytest.raises(ValueError, match="num_levels is 4; expected 1 to 3"):
        agent.with_planner(num_levels=4)
    with pytest.raises(ValueError, match=r"unknown key planner.horizons; expected one of .*horizon"):
        agent.with_planner(horizons=[3])


def test_planning_leaves_global_randomness_alone(agent):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    acted(agent)
    assert torch.equal(torch.rand(2), expected)
