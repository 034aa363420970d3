"""Environments with spaces of every kind, as `make_vector` gives them to collection and evaluation."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from hiwm.data.policies import SmoothPolicy, UniformPolicy
from hiwm.data.spaces import FlatSpaces
from hiwm.data.vector import make_vector

NUMBER = spaces.Box(0, 1, (2,), np.float32)


class World(gymnasium.Env):
    """Gives a fixed observation and goal, and remembers the actions it got."""

    def __init__(self, observation_space, observation, action_space=None, goal=None, expert=None):
        self.observation_space, self.observation = observation_space, observation
        self.action_space = spaces.Box(-1, 1, (2,), np.float32) if action_space is None else action_space
        self.goal, self.expert, self.taken = observation if goal is None else goal, expert, []

    def reset(self, *, seed=None, options=None):
        info = {"goal": self.goal}
        return self.observation, info if self.expert is None else {**info, "expert_action": self.expert}

    def step(self, action):
        assert self.action_space.contains(action), (action, self.action_space)
        self.taken.append(action)
        return self.observation, 0.0, False, False, {"success": False}


class Wall(spaces.Space):
    """A space that hiwm does not know."""


@pytest.mark.parametrize(("space", "observation", "columns"), [
    (spaces.Dict({"arm": spaces.Dict({"angle": NUMBER}), "clock": NUMBER}),
     {"arm": {"angle": np.array([0, 1], np.float32)}, "clock": np.zeros(2, np.float32)}, {"arm.angle": [0, 1], "clock": [0, 0]}),
    (spaces.Dict({"observation.state": NUMBER}), {"observation.state": np.ones(2, np.float32)}, {"observation.state": [1, 1]}),
    (spaces.Dict({"a/b": NUMBER}), {"a/b": np.ones(2, np.float32)}, {"a.b": [1, 1]}),
    (spaces.Dict({"x": spaces.Box(0, 9, (), np.float64)}), {"x": np.float64(3)}, {"x": [3]}),
    (spaces.Dict({"way": spaces.Discrete(3), "mission": spaces.Text(9)}), {"way": 1, "mission": "go"}, {"way": [0, 1, 0]}),
    (spaces.Dict({"way": spaces.Discrete(3, start=5)}), {"way": 7}, {"way": [0, 0, 1]}),
    (spaces.Dict({"two": spaces.Tuple((NUMBER, spaces.Discrete(2))), "wall": Wall()}),
     {"two": (np.zeros(2, np.float32), 1), "wall": object()}, {"two": [0, 0, 0, 1]}),
])  # fmt: skip
def test_parts_of_a_dict_become_columns(space, observation, columns):
    envs = make_vector(lambda: World(space, observation), 2)
    seen, infos = envs.reset(seed=[0, 1])
    assert list(envs.single_observation_space) == list(columns)
    for name, value in columns.items():
        assert seen[name].tolist() == infos["goal"][name].tolist() == [value, value]
        assert seen[name].dtype == envs.single_observation_space[name].dtype


@pytest.mark.parametrize(("space", "observation", "expected"), [
    (spaces.Box(0, 1, (), np.float32), np.float32(0.5), [0.5]),
    (spaces.Discrete(4), 2, [0, 0, 1, 0]),
    (spaces.MultiBinary(2), np.array([1, 0], np.int8), [1, 0]),
    (spaces.MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
    (spaces.Tuple((NUMBER, NUMBER)), (np.zeros(2, np.float32), np.ones(2, np.float32)), [0, 0, 1, 1]),
])  # fmt: skip
def test_other_observations_become_one_vector(space, observation, expected):
    envs = make_vector(lambda: World(space, observation), 2)
    seen, infos = envs.reset(seed=[0, 1])
    assert seen.tolist() == infos["goal"].tolist() == [expected, expected]


def test_a_goal_may_be_a_part_of_an_observation():
    space = spaces.Dict({"here": spaces.Dict({"xy": NUMBER}), "clock": NUMBER})
    observation = {"here": {"xy": np.ones(2, np.float32)}, "clock": np.ones(2, np.float32)}
    _, info = FlatSpaces(World(space, observation, goal={"here": {"xy": [0.5, 0]}})).reset()
    assert {name: value.tolist() for name, value in info["goal"].items()} == {"here.xy": [0.5, 0]}


@pytest.mark.parametrize(("space", "message"), [
    (Wall(), r"the observation space is .*; expected numbers"),
    (spaces.Text(5), r"the observation space is .*; expected numbers"),
    (spaces.Dict({"mission": spaces.Text(5)}), r"expected at least one part that is made of numbers"),
    (spaces.Dict({"a.b": NUMBER, "a": spaces.Dict({"b": NUMBER})}), r"two parts of the observation are called 'a.b'"),
])  # fmt: skip
def test_observations_that_are_no_numbers_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        FlatSpaces(World(space, None))


@pytest.mark.parametrize(("space", "action", "expected"), [
    (spaces.Box(-1, 1, (1, 2), np.float32), [0.5, 2], [[0.5, 1]]),
    (spaces.Box(-0.1, 0.1, (1,), np.float64), [np.float32(0.1)], [0.1]),
    (spaces.Box(0, 255, (2,), np.uint8), [1.6, 300], [2, 255]),
    (spaces.Box(-np.inf, np.inf, (1,), np.float32), [5], [5]),
])  # fmt: skip
def test_actions_arrive_in_the_shape_type_and_bounds_of_the_environment(space, action, expected):
    world = World(NUMBER, np.zeros(2, np.float32), space, expert=np.zeros(space.shape, space.dtype))
    flat = FlatSpaces(world)
    assert flat.action_space.shape == (len(action),)
    _, info = flat.reset()
    assert info["expert_action"].shape == (len(action),)
    flat.step(np.array(action, np.float32))
    np.testing.assert_allclose(world.taken[0], np.array(expected, space.dtype), rtol=1e-6)


def test_a_number_counts_from_the_start_of_its_space():
    world = World(NUMBER, np.zeros(2, np.float32), spaces.Discrete(3, start=-1), expert=1)
    flat = FlatSpaces(world)
    assert flat.action_space == spaces.Discrete(3)
    assert flat.reset()[1]["expert_action"] == 2
    flat.step(np.int64(0))
    assert world.taken == [-1]


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([3, 3]), spaces.MultiBinary(2), spaces.Dict({"a": NUMBER})])
def test_other_actions_are_refused(space):
    with pytest.raises(ValueError, match=r"the action space is .*; expected a Box or a Discrete"):
        FlatSpaces(World(NUMBER, None, space))


def test_actions_without_bounds_are_drawn_around_zero_or_the_bound():
    low, high = (
        np.array([-np.inf, 2, -np.inf, -3.4e38, -1], np.float32),
        np.array([np.inf, np.inf, 2, 3.4e38, 1], np.float32),
    )
    policy = UniformPolicy()
    policy.reset([0], spaces.Box(low, high), 5000)
    drawn = np.stack([policy.act(np.empty(0), {}, t)[0] for t in range(5000)])
    np.testing.assert_allclose(drawn[:, [0, 3]].std(0), 1, atol=0.05)
    np.testing.assert_allclose(drawn[:, [0, 3]].mean(0), 0, atol=0.05)
    assert drawn[:, 1].min() >= 2
    assert drawn[:, 2].max() <= 2
    assert np.abs(drawn[:, 4]).max() <= 1
    with pytest.raises(ValueError, match=r"SmoothPolicy: the action space is .*; expected one with bounds"):
        SmoothPolicy().reset([0], spaces.Box(-np.inf, np.inf, (2,), np.float32), 5)
