from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from test_planner import points, start

from hiwm.agent import load_agent
from hiwm.config import load_config
from hiwm.data.store import Trajectories
from hiwm.experiment import collect, train
from hiwm.planning.cost_to_go import CostToGo, CostToGoConfig, fit_cost_to_go
from hiwm.planning.goals import AnyOf, InOrder, KeepOut, PartGoal, Region

CONFIG = CostToGoConfig(
    levels=[1],
    width=64,
    depth=2,
    steps=2500,
    batch=256,
    learning_rate=3e-3,
    discount=0.8,
    expectile=0.9,
    target_rate=0.02,
)


def behind_a_lock(tmp_path, seed=0):
    """A button and a drawer, 0 or 1: either is pushed at random, but the drawer moves only while the button is 1."""
    rng = np.random.default_rng(seed)
    state = np.zeros((60, 100, 2), np.float32)
    state[:, 0] = rng.integers(0, 2, (60, 2))
    for t in range(1, 100):
        which, moves = rng.integers(0, 3, 60), state[:, t - 1].copy()
        moves[which == 0, 0] = 1 - moves[which == 0, 0]
        free = (which == 1) & (state[:, t - 1, 0] == 1)
        moves[free, 1] = 1 - moves[free, 1]
        state[:, t] = moves
    part = state.reshape(-1, 2)
    turned = part @ np.float32([[0.6, 0.8], [-0.8, 0.6]])  # a latent need not hold the part as it is
    return Trajectories(tmp_path, {"latent": turned}, np.full(60, 100), np.arange(60) * 100), part


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return behind_a_lock(tmp_path_factory.mktemp("data"))


def fit(latents, part, **changes):
    return fit_cost_to_go(
        latents, part, 1, replace(CONFIG, **changes), validation=0.2, seed=0, device=torch.device("cpu")
    )


@pytest.fixture(scope="module")
def cost(world):
    return fit(*world)


def to_go(cost, state, goal):
    latent = torch.tensor([state], dtype=torch.float32) @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    return cost(latent, torch.tensor([goal], dtype=torch.float32)).item()


def test_costs_count_the_steps_of_the_shortest_way(cost):
    close = [0.0, 0.0]
    ways = {
        (0, 0): 0,
        (1, 0): 1,
        (1, 1): 2,
        (0, 1): 3,
    }  # the drawer is open, the button as it should be: press, close, press
    for state, steps in ways.items():
        assert to_go(cost, state, close) == pytest.approx(steps, abs=0.5)
    assert to_go(cost, (0, 1), [1.0, 0.0]) == pytest.approx(2, abs=0.5)


def test_what_is_left_open_costs_nothing(cost):
    assert to_go(cost, (0, 1), [torch.nan, 1.0]) == pytest.approx(0, abs=0.3)
    assert to_go(cost, (0, 1), [torch.nan, 0.0]) == pytest.approx(2, abs=0.5)
    assert to_go(cost, (1, 1), [0.0, torch.nan]) == pytest.approx(1, abs=0.5)


def test_goals_stand_beside_any_number_of_latents(cost):
    latent, goal = torch.randn(3, 5, 2, 2), torch.randn(3, 1, 1, 2)
    together = cost(latent, goal)
    assert together.shape == (3, 5, 2)
    torch.testing.assert_close(together[1, 2, 0], cost(latent[1, 2, 0], goal[1, 0, 0]))


def test_what_the_data_never_reached_is_far(world):
    latents, part = world
    kept = np.repeat(np.arange(60) % 2, 100)[:, None].astype(np.float32)  # by each episode, from its start to its end
    columns = {"latent": np.concatenate([latents.column("latent"), kept], 1)}
    cost = fit(replace(latents, columns=columns), np.concatenate([part, kept], 1))
    here = torch.from_numpy(columns["latent"][:1])
    near, far = (cost(here, torch.tensor([[*part[0], number]])).item() for number in (kept[0, 0], 1 - kept[0, 0]))
    assert near < 0.5
    assert far > 8


def test_costs_do_not_learn_from_held_out_episodes(world, cost):
    latents, part = world
    other, noise = part.copy(), latents.column("latent").copy()
    other[4800:], noise[4800:] = 7.0, 9.0
    again = fit(Trajectories(latents.path, {"latent": noise}, latents.ep_len, latents.ep_offset), other)
    for name, value in cost.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_cost_is_saved_whole(cost, tmp_path):
    cost.save(tmp_path / "cost.safetensors")
    loaded = CostToGo.load(tmp_path / "cost.safetensors")
    latent, goal = torch.randn(9, 2), torch.randn(9, 2)
    assert torch.equal(loaded(latent, goal), cost(latent, goal))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
