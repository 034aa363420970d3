"""Discrete actions, from the environment to the agent: one-hot in the data and in the search, numbers outside."""

from __future__ import annotations

import base64
import gzip
import json
import re

import gymnasium
import numpy as np
import pytest
import tiny
import torch

from hiwm.agent import load_agent
from hiwm.analysis.report import report
from hiwm.config import load_config
from hiwm.data.actions import is_one_hot
from hiwm.data.collect import Collection, collect
from hiwm.data.policies import NoisyExpertPolicy, UniformPolicy
from hiwm.data.store import Writer, open_dataset
from hiwm.experiment import run, train
from hiwm.hierarchy import Hierarchy, LevelSpec
from hiwm.levels.parts import Predictor
from hiwm.planning.action_space import ActionSpace
from hiwm.planning.assemble import make_planner
from hiwm.planning.goals import ObservationGoal
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.strategies.proposals import proposal_around, uninformed_proposal

MOVES = torch.tensor(tiny.DiscreteRoom.MOVES, dtype=torch.float32)


@pytest.fixture(scope="module")
def discrete_run(tmp_path_factory):
    overrides = tiny.overrides(
        tmp_path_factory.mktemp("discrete"), "environment._target_=tiny.DiscreteRoom", "tracking=none",
        "~dataset.policy.noise", "dataset.policy._target_=hiwm.data.policies.UniformPolicy", "+dataset.policy.repeat=4",
        "~levels.level2", "training.steps=40", "evaluation.num_tasks=1", "evaluation.max_steps=30",
    )  # fmt: skip
    config = load_config([override for override in overrides if not override.startswith("planner.level2")])
    run(config)
    return config


def test_from_the_environment_to_the_agent(discrete_run):
    dataset = open_dataset(discrete_run.dataset.path)
    actions = dataset.column("action")[:]
    assert actions.shape[1:] == (5,)
    assert is_one_hot(actions)
    assert (actions.mean(0) > 0.15).all()
    # what was stored is what was done
    state = dataset.column("state")[:80]  # of the first episode
    meant = state + tiny.STEP * tiny.DiscreteRoom.MOVES[actions[:80].argmax(1)]
    free = np.array([(point >= 0).all() and (point <= 1).all() and not tiny.in_wall(point) for point in meant[:-1]])
    assert free.sum() > 10
    np.testing.assert_allclose(state[1:][free], meant[:-1][free], atol=1e-5)
    found = json.loads((discrete_run.folder / "evaluation.json").read_text())["agents"]
    for name in ("hierarchical", "flat", "flat_graph"):
        assert found[name]["predictor_calls"] == pytest.approx(discrete_run.planner.budget, rel=0.2)


def test_the_agent_answers_with_numbers(discrete_run):
    agent = load_agent(discrete_run.folder / "hierarchy")
    assert agent.spec.discrete
    goals, states = np.random.default_rng(0).uniform(size=(2, 6, 2)).astype(np.float32)
    agent.reset(goals)
    for _ in range(4):
        action = agent.act(states)
        assert action.shape == (6,)
        assert action.dtype == np.int64
        assert agent.action_shape == ()
        assert is_one_hot(agent.plan.action.numpy())
        assert torch.equal(agent.plan.action.argmax(1), torch.from_numpy(action))
    agent.reset(goals[0])
    assert gymnasium.spaces.Discrete(5).contains(agent.act(states[0]))


def test_the_page_numbers_actions(discrete_run):
    page = report(discrete_run).read_text()
    packed = re.findall(r'id="viewer-episode-\d+">([^<]*)<', page)
    assert packed
    for each in packed:
        actions = json.loads(gzip.decompress(base64.b64decode(each)))["actions"]
        assert all(len(action) == 1 and action[0] in range(5) for action in actions)
    numbers = json.loads((discrete_run.folder / "diagnostics.json").read_text())["macro_actions"]
    assert "dimension" not in numbers["sentence"].split("Level 1")[0]  # of level 0, whose actions have none
    assert [name for name in numbers["metrics"] if name.startswith("level0/macro4")]


def test_the_report_numbers_actions_as_the_environment_does(tmp_path, monkeypatch):
    rng, path = np.random.default_rng(0), tmp_path / "numbered.h5"
    with Writer(path, {}) as writer:
        for _ in range(12):
            action = rng.integers(1, 5, 81)  # none is the first one of the environment
            steps = tiny.STEP * tiny.DiscreteRoom.MOVES[action]
            writer.append({"state": (0.5 + np.cumsum(steps, 0)).astype(np.float32), "action": action})
    overrides = tiny.overrides(
        tmp_path, "environment._target_=tiny.DiscreteRoom", "tracking=none", "~levels.level2", "training.steps=5",
        f"dataset.path={path}",
    )  # fmt: skip
    config = load_config([override for override in overrides if not override.startswith("planner.level2")])
    train(config)
    opened = []
    monkeypatch.setattr("hiwm.analysis.report._draw", lambda _, __, dataset, *rest: opened.append(dataset) or {})
    report(config)
    assert [dataset.column("action").shape for dataset in opened] == [(12 * 81, 5)]


@pytest.mark.parametrize("level0", [
    {"proposal": {"center": "gaussian"}}, {"strategy": "follow_inverse"}, {"proposal": {"center": "inverse"}},
    {"proposal": {"center": "retrieval"}},
])  # fmt: skip
def test_every_proposal_plans_real_actions(discrete_run, level0):
    gaussian = {"proposal": {"center": "gaussian"}}
    agent = load_agent(discrete_run.folder / "hierarchy").with_planner(
        graph="none", level0=level0, level1=gaussian, warm_start=True, budget=300
    )
    goals, states = np.random.default_rng(1).uniform(size=(2, 4, 2)).astype(np.float32)
    agent.reset(goals)
    for _ in range(7):
        agent.act(states)
        assert is_one_hot(agent.plan.levels[0].actions.flatten(0, 1).numpy())
        upper = agent.plan.levels[1].actions
        assert upper is not None
        assert not is_one_hot(upper.flatten(0, 1).numpy())


def test_where_a_discrete_search_begins():
    space = ActionSpace(3, 3, torch.zeros(3), torch.ones(3), discrete=True)
    torch.testing.assert_close(uninformed_proposal(space, 1, 2, 1, 9.0).mean, torch.full((1, 2, 3), 1 / 3))
    wanted = torch.tensor([[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    found = proposal_around(space, wanted, 9.0).mean
    torch.testing.assert_close(found, torch.tensor([[[1, 4, 1], [4, 1, 1]]]) / 6)
    assert space.clamp(torch.tensor([[0.2, 0.9, -0.3]])).tolist() == [[0.0, 1.0, 0.0]]


class Moves(Predictor):
    """z' = z + 0.05 move: the discrete room without its wall, exactly."""

    def forward(self, latent, action):
        return latent + tiny.STEP * action @ MOVES


@pytest.mark.parametrize("warm_start", [False, True])
def test_a_flat_planner_with_exact_dynamics_reaches_its_goal(warm_start):
    config = load_config([])
    spec = LevelSpec(config.levels["level0"], 1, {"state": (2,)}, 5, "exact")
    level = spec.build()
    level.predictor = Moves(2)
    hierarchy = Hierarchy([level], [spec]).eval().requires_grad_(False)
    level0 = {"horizon": 24, "action_repeat": 4, "replan": 4, "proposal": {"center": "gaussian", "std": 0.7}}
    changes = {"graph": "none", "budget": 800, "warm_start": warm_start, "level0": level0}
    planner_config, bounds = config.planner.changed(changes), (torch.zeros(5), torch.ones(5))
    planner = make_planner(hierarchy, planner_config, bounds, discrete=True)
    goal, state = torch.rand(2, 6, 2, generator=torch.Generator().manual_seed(0))
    whole = ObservationGoal(planner.hierarchy.encode({"state": goal}))
    planner.start(whole, EpisodeNoise(range(6)))
    closest = torch.full((6,), torch.inf)
    for _ in range(45):
        state = state + tiny.STEP * planner.plan({"state": state}).action @ MOVES
        closest = torch.minimum(closest, (state - goal).norm(dim=1))
    assert closest.max() < 0.06  # about a step; a grid allows no less than half of one
    with pytest.raises(ValueError, match=r"planner.discrete_solver is null; expected a solver"):
        make_planner(hierarchy, planner_config.changed({"discrete_solver": None}), bounds, discrete=True)


def test_a_space_with_another_start():
    class Shifted(tiny.DiscreteRoom):
        def __init__(self):
            super().__init__()
            self.action_space = gymnasium.spaces.Discrete(5, start=3)

        def step(self, action):
            assert self.action_space.contains(int(action))
            return tiny.TinyRoom.step(self, self.MOVES[int(action) - 3])

    shifted, plain = (
        list(collect(Collection(kind, UniformPolicy, episodes=2, steps=9, seed=0, column="state", num_envs=1), 1))
        for kind in (Shifted, tiny.DiscreteRoom)
    )
    for one, other in zip(shifted, plain, strict=True):
        assert np.array_equal(one["action"], other["action"])
        assert np.array_equal(one["state"], other["state"])


def test_policies_of_other_spaces_are_refused():
    with pytest.raises(ValueError, match=r"NoisyExpertPolicy: the action space is Discrete\(5\); expected a Box"):
        NoisyExpertPolicy(noise=0.1).reset([0], gymnasium.spaces.Discrete(5), 3)


def test_one_hot():
    assert is_one_hot(np.eye(3)[[0, 2, 1]])
    assert not is_one_hot(np.ones((4, 1)))
    assert not is_one_hot(np.array([[1.0, 1.0], [0.0, 1.0]]))
    assert not is_one_hot(np.array([[0.5, 0.5], [0.0, 1.0]]))
