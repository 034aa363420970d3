"""Environments of packages by their id: small ones that follow each convention, then real packages."""

from __future__ import annotations

import importlib
import json
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from hiwm.cli import main
from hiwm.config import ConfigError, load_config
from hiwm.environment import check_collecting, check_evaluating
from hiwm.envs.gym import GymEnvironment

BOX = spaces.Box(0, 1, (2,), np.float32)
SMALL = [
    "device=cpu", "threads=1", "tracking=none", "dataset.workers=1", "dataset.episodes=8", "dataset.steps=61",
    "levels.level1.stride=3", "levels.level1.horizon=2", "levels.level2.horizon=2", "training.steps=3", "training.batch=16",
    "goal.steps=3", "graph.num_nodes=20", "graph.min_component=2", "graph.num_candidates=100", "graph.num_transitions=300",
    "action_bank.size=50", "evaluation.episodes=2", "evaluation.baseline_episodes=1", "evaluation.max_steps=10",
]  # fmt: skip
# package, id and further overrides: the commands in docs/environments.md
PACKAGES = [
    ("gymnasium_robotics", "gymnasium_robotics:PointMaze_UMaze-v3", []),
    ("panda_gym", "panda_gym:PandaReach-v3", []),
    ("highway_env", "highway_env:parking-v0", []),
    ("minigrid", "minigrid:MiniGrid-Empty-5x5-v0", ["+environment.arguments.max_steps=1000"]),
    ("ogbench", "ogbench:pointmaze-medium-v0", []),
    ("gymnasium", "Pendulum-v1", []),
]


class Line(gymnasium.Env):
    """A point on the plane; `goal_info` makes the info of `reset`, `told` that of `step`."""

    observation_space, action_space = BOX, spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, told=None):
        self.told = told

    def observe(self):
        return self.here.astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        assert options is None, "an environment of a package may refuse options that it does not know"
        self.here, self.goal = self.np_random.uniform(size=(2, 2))
        return self.observe(), self.goal_info()

    def goal_info(self):
        return {}

    def step(self, action):
        self.here = np.clip(self.here + 0.05 * action, 0, 1)
        near = bool(np.linalg.norm(self.here - self.goal) < 0.2)
        return self.observe(), 0.0, near and self.told == "terminated", False, {self.told: near} if self.told else {}


class GoalEnv(Line):
    observation_space = spaces.Dict(observation=BOX, achieved_goal=BOX, desired_goal=BOX)

    def observe(self):
        here, goal = self.here.astype(np.float32), self.goal.astype(np.float32)
        return {"observation": here, "achieved_goal": here, "desired_goal": goal}

    def reset(self, *, seed=None, options=None):
        self.here = self.goal = np.zeros(2)
        return super().reset(seed=seed, options=options)


class GoalInInfo(Line):
    def goal_info(self):
        return {"goal": self.goal.astype(np.float32)}


class GoalState(Line):
    """As stable-worldmodel's worlds: `goal` is a picture."""

    def goal_info(self):
        return {"goal_state": self.goal.astype(np.float32), "goal": np.zeros((8, 8, 3), np.uint8)}


for kind in (Line, GoalEnv, GoalInInfo, GoalState):
    gymnasium.register(f"hiwm-test/{kind.__name__}-v0", entry_point=kind, max_episode_steps=5)


def episode(kind, steps=60, **arguments):
    """The goal, whether `success` was right at every step by a rule of its own, and the number of steps taken."""
    env = GymEnvironment(id=f"hiwm-test/{kind}-v0", **arguments)
    observation, info = env.reset(seed=3, options={"task_id": 1, "episode": 0})
    inner = env.unwrapped
    found = []
    for _ in range(steps):
        inner_goal = info["goal"]["achieved_goal"] if isinstance(info["goal"], dict) else info["goal"]
        action = np.clip((inner_goal - inner.here) / 0.05, -1, 1)
        observation, _, terminated, truncated, last = env.step(action)
        found.append((float(np.linalg.norm(inner.here - inner_goal)), last["success"]))
        if terminated or truncated:
            break
    return info["goal"], found, observation


@pytest.mark.parametrize("told", ["success", "is_success"])
@pytest.mark.parametrize("kind", ["GoalEnv", "GoalInInfo", "GoalState"])
def test_success_that_the_environment_reports(kind, told):
    _, found, _ = episode(kind, arguments={"told": told})
    assert len(found) == 60  # without the time limit of five steps
    assert [won for _, won in found] == [distance < 0.2 for distance, _ in found]


def test_goals_of_each_convention():
    goal, _, observation = episode("GoalEnv", arguments={"told": "success"})
    assert list(goal) == ["achieved_goal"]
    assert "desired_goal" not in observation
    for kind in ("GoalInInfo", "GoalState"):
        goal, _, _ = episode(kind, arguments={"told": "success"})
        assert goal.shape == (2,)


def test_an_end_at_a_given_state_is_success():
    _, found, _ = episode("GoalState", arguments={"told": "terminated"})
    assert len(found) < 60
    assert [won for _, won in found] == [False] * (len(found) - 1) + [True]


@pytest.mark.parametrize("kind", ["Line", "GoalEnv"])
def test_success_by_distance(kind):
    _, found, _ = episode(kind, tolerance=0.03)
    assert not found[0][1]
    assert found[-1][1]
    wins = [distance for distance, won in found if won]
    losses = [distance for distance, won in found if not won]
    assert max(wins) < min(losses)
    wide = episode(kind, tolerance=0.5)[1]
    assert sum(won for _, won in wide) > len(wins)


def test_a_goal_that_random_actions_reach():
    env = GymEnvironment(id="hiwm-test/Line-v0", goal_steps=20)
    options = {"task_id": 1}
    start, info = env.reset(seed=5, options=options)
    again, same = env.reset(seed=5, options=options)
    assert np.array_equal(start, again)
    assert np.array_equal(info["goal"], same["goal"])
    assert not np.array_equal(env.reset(seed=6, options=options)[1]["goal"], info["goal"])
    distances = []
    for seed in range(30):
        start, info = env.reset(seed=seed, options=options)
        distances.append(np.abs(info["goal"] - start).max())
    assert 0.02 < np.mean(distances) < 20 * 0.05
    assert "goal" not in env.reset(seed=5)[1]  # data need none


def test_keys_that_follow_from_the_environment(monkeypatch):
    config = load_config(["environment=gym", "environment.id=hiwm-test/GoalEnv-v0", "tracking=none"])
    assert config.name == "hiwm-test-goalenv-v0"
    assert config.dataset.path == "runs/datasets/hiwm-test-goalenv-v0.h5"
    assert sorted(config.inputs) == ["achieved_goal", "observation"]
    assert config.state == config.goal.columns == ["achieved_goal"]
    assert config.evaluation.num_tasks == 1
    own = ["inputs=[observation]", "evaluation.num_tasks=3", "name=mine"]
    config = load_config(["environment=gym", "environment.id=hiwm-test/GoalEnv-v0", *own])
    assert (config.inputs, config.evaluation.num_tasks, config.name) == (["observation"], 3, "mine")
    config = load_config(["environment=gym", "environment.id=hiwm-test/Line-v0"])
    assert config.inputs == config.state == ["state"]
    assert config.goal.columns == []


@pytest.mark.parametrize(("overrides", "message"), [
    (["environment.id=nothing-v0"], "environment.id is 'nothing-v0', .*name its module first"),
    (["environment.id=not_there:thing-v0"], "environment.id is 'not_there:thing-v0', which cannot be imported"),
    (["environment.id=hiwm-test/Line-v0", "+environment.arguments.wings=2"], "arguments are {'wings': 2}: .*wings"),
    ([], "Missing mandatory value: .*environment.id"),
])  # fmt: skip
def test_mistakes_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(["environment=gym", *overrides])


@pytest.mark.parametrize(("package", "id_", "more"), PACKAGES)
def test_real_packages(package, id_, more, tmp_path, monkeypatch, recwarn):
    """The command of the documentation, with less of everything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module(package)
        except ImportError:
            pytest.skip(f"{package} is not installed")
        command = ["environment=gym", f"environment.id={id_}", *more, *SMALL, f"root={tmp_path}"]
        config = load_config(command)
        columns = check_collecting(config)
        assert set(config.inputs) <= set(columns)
        assert check_evaluating(config) == columns
        assert main(["run", *command]) == 0
    agents = json.loads((config.folder / "evaluation.json").read_text())["agents"]
    assert {"hierarchical", "flat", "flat_graph"} == set(agents)
    assert (config.folder / "report.html").exists()
