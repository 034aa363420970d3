"""Actions are standardised for every network and search; the units of the environment are those of the data and of what is done."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from hiwm.agent import load_agent
from hiwm.config import load_config
from hiwm.data.actions import action_statistics
from hiwm.data.store import Writer, open_dataset
from hiwm.experiment import train
from hiwm.levels.action_encoders.raw import RawActionEncoder

EPISODES, ROWS = 8, 61
MORE = [
    "training.steps=3", "training.batch=16", "dataset.validation=0.25", "graph.num_transitions=300", "graph.min_component=2",
    "graph.num_candidates=200",
]  # fmt: skip


def write(path, change=lambda action: action):
    """Walks that actions in [-1, 1] drive, the actions in other units."""
    rng = np.random.default_rng(0)
    with Writer(path, metadata={}) as writer:
        for _ in range(EPISODES):
            action = rng.uniform(-1, 1, (ROWS, 2)).astype(np.float32)
            state = np.clip(rng.uniform(size=2) + np.cumsum(tiny.STEP * action, 0), 0, 1)
            writer.append({"state": state.astype(np.float32), "action": change(action)})
    return open_dataset(path)


def agent_of(tmp_path, name, change):
    path = tmp_path / f"{name}.h5"
    write(path, change)
    config = load_config(tiny.overrides(tmp_path, *MORE, f"name={name}", f"dataset.path={path}", "tracking=none"))
    train(config)
    return load_agent(config.folder / "hierarchy")


@pytest.mark.parametrize("scale", [128.0, 1 / 128])
def test_plans_do_not_depend_on_the_unit(tmp_path, scale):
    """A power of two changes no digit, so the levels must be equal, and the plans up to the unit."""
    one = agent_of(tmp_path, "one", lambda action: action)
    other = agent_of(tmp_path, "other", lambda action: scale * action)
    assert np.allclose(other.spec.action_high, scale * np.array(one.spec.action_high))
    rng = np.random.default_rng(1)
    goals, states = rng.uniform(size=(2, 4, 2)).astype(np.float32)
    for graph in ("follow", "none"):
        for levels in (1, 3):
            level0 = {"proposal": {"center": "gaussian"}} if levels == 1 else {}
            plain, scaled = (each.with_planner(levels, graph=graph, level0=level0) for each in (one, other))
            for each in (plain, scaled):
                each.reset(goals)
            for _ in range(4):
                np.testing.assert_allclose(scaled.act(states), scale * plain.act(states), rtol=1e-3, atol=1e-3 * scale)
                torch.testing.assert_close(
                    scaled.plan.levels[0].actions, scale * plain.plan.levels[0].actions, rtol=1e-3, atol=1e-3 * scale
                )


def test_actions_stay_within_the_bounds_of_the_data(tmp_path):
    """Exactly: an environment may refuse the next larger float. The range is far from zero, and one number is constant."""
    agent = agent_of(tmp_path, "shifted", lambda action: np.stack([300 + 7 * action[:, 0], 0 * action[:, 1] + 5], 1))
    low, high = np.float32(agent.spec.action_low), np.float32(agent.spec.action_high)
    assert 292 < low[0] < 294 < 306 < high[0] < 308
    agent = agent.with_planner(1, graph="none", level0={"proposal": {"center": "gaussian", "std": 9.0}})
    goals, states = np.random.default_rng(1).uniform(size=(2, 20, 2)).astype(np.float32)
    agent.reset(goals)
    actions = np.concatenate([agent.act(states) for _ in range(3)])
    assert ((low <= actions) & (actions <= high)).all()
    assert (actions[:, 1] == 5).all()
    assert np.ptp(actions[:, 0]) > 3


def test_statistics(tmp_path):
    def garbage_at_the_end(action):
        action = np.stack([10 + 2 * action[:, 0], np.full(ROWS, 7, np.float32)], 1)
        action[-1] = np.nan  # the last action leads nowhere
        return action

    mean, std = action_statistics(write(tmp_path / "a.h5", garbage_at_the_end))
    np.testing.assert_allclose(mean, [10, 7], atol=0.3)
    np.testing.assert_allclose(std, [2 / np.sqrt(3), 1], atol=0.1)  # a constant number has the std 1
    tiny_range = action_statistics(write(tmp_path / "b.h5", lambda action: 1e-9 * action))[1]
    np.testing.assert_allclose(tiny_range, 1e-9 / np.sqrt(3), rtol=0.1)


def test_discrete_actions_stay_as_they_are(tmp_path):
    one_hot = write(tmp_path / "a.h5", lambda action: np.eye(2, dtype=np.float32)[(action[:, 0] > 0).astype(int)])
    mean, std = action_statistics(one_hot)
    assert mean.tolist() == [0, 0]
    assert std.tolist() == [1, 1]


def test_decoding_undoes_encoding():
    encoder = RawActionEncoder(dim_below=2, stride=3)
    encoder.fit(torch.tensor([5.0, -1.0]), torch.tensor([100.0, 0.01]))
    actions = torch.tensor([5.0, -1.0]) + torch.randn(4, 3, 2) * torch.tensor([100.0, 0.01])
    encoded = encoder(torch.zeros(4, 1), actions)
    assert encoded.shape == (4, 6)
    assert encoded.abs().max() < 6
    torch.testing.assert_close(encoder.decode(encoded), actions)
