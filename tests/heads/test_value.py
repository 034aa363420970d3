from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from planning_tools import points
from tiny import shipped

from hiwm.agent import Agent, load_agent
from hiwm.config import load_config
from hiwm.data.store import Trajectories
from hiwm.experiment import collect, train
from hiwm.heads.optimize import FitData
from hiwm.heads.value import Value, backup, fit_value, hindsight
from hiwm.planning.goals import AnyOf, BoxRegion, KeepOut, PartGoal, Waypoints

CONFIG = shipped(
    "value",
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


def fit(latents, part, period=1, **changes):
    data = FitData(latents, validation=0.2, seed=0, device=torch.device("cpu"))
    return fit_value(data, part, period, CONFIG.changed(changes))


@pytest.fixture(scope="module")
def cost(world):
    return fit(*world)


def steps_to_goal(cost, state, goal):
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
        assert steps_to_goal(cost, state, close) == pytest.approx(steps, abs=0.5)
    assert steps_to_goal(cost, (0, 1), [1.0, 0.0]) == pytest.approx(2, abs=0.5)


@pytest.mark.parametrize("period", [1, 3])
def test_future_goals_lie_whole_calibrated_steps_within_the_episode(period):
    at = torch.arange(100, 120).repeat_interleave(2000)
    ends = torch.full_like(at, 124)
    drawn = torch.rand(len(at), generator=torch.Generator().manual_seed(0))
    rows = hindsight(at, ends, period, 0.8, drawn) - at
    assert (rows % period == 0).all()
    steps = rows // period
    assert (steps >= 1).all()
    assert (at + period * steps < 124).all()
    first = steps[at == 100]
    for number in (1, 2, 3):  # each a fifth rarer than the one before
        assert (first == number).float().mean() == pytest.approx(0.2 * 0.8 ** (number - 1), abs=0.03)
    assert (first == 23 // period).any()  # the last step that fits in


def test_costs_count_steps_of_the_level_not_rows(world):
    latents, part = world
    slow = {"latent": np.repeat(latents.column("latent"), 2, 0)}  # every state for two rows
    twice = Trajectories(latents.path, slow, 2 * latents.ep_len, 2 * latents.ep_offset)
    cost = fit(twice, np.repeat(part, 2, 0), period=2)
    assert steps_to_goal(cost, (0, 1), [0.0, 0.0]) == pytest.approx(3, abs=0.5)
    assert steps_to_goal(cost, (1, 0), [0.0, 0.0]) == pytest.approx(1, abs=0.5)


def test_held_out_episodes_tell_what_costs_are_worth(cost):
    ahead = cost.ahead.tolist()
    assert ahead[0] == pytest.approx(1, abs=0.6)  # the median of 0, 1 and 1
    assert 1 < ahead[1] <= 2.5
    assert ahead[1] < ahead[3] < 3.5  # nothing is farther than three steps


def test_the_end_of_an_episode_can_be_a_goal(tmp_path):
    part = np.tile(np.arange(6, dtype=np.float32), 60)[:, None]  # 0 to 5, step by step, and 5 has no step of its own
    cost = fit(Trajectories(tmp_path, {"latent": part}, np.full(60, 6), np.arange(60) * 6), part)
    for start in range(5):
        assert cost(torch.tensor([[float(start)]]), torch.tensor([[5.0]])).item() == pytest.approx(5 - start, abs=0.5)


def test_the_slow_copies_tell_what_lies_beyond_the_next_step(world):
    """Copies that stay as they began know of no goal; only goals one step ahead, which need no network, become near."""
    value = fit(*world, target_rate=1e-9)
    assert steps_to_goal(value, (1, 0), [0.0, 0.0]) == pytest.approx(1, abs=0.5)
    assert steps_to_goal(value, (1, 1), [0.0, 0.0]) > 5  # two steps
    assert steps_to_goal(value, (0, 1), [0.0, 0.0]) > 5  # three


def test_what_is_left_open_costs_nothing(cost):
    assert steps_to_goal(cost, (0, 1), [torch.nan, 1.0]) == pytest.approx(0, abs=0.3)
    assert steps_to_goal(cost, (0, 1), [torch.nan, 0.0]) == pytest.approx(2, abs=0.5)
    assert steps_to_goal(cost, (1, 1), [0.0, torch.nan]) == pytest.approx(1, abs=0.5)


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
        if name != "ahead":
            assert torch.equal(value, again.state_dict()[name]), name


def test_a_cost_is_saved_whole(cost, tmp_path):
    cost.save(tmp_path / "value.safetensors")
    loaded = Value.load(tmp_path / "value.safetensors")
    latent, goal = torch.randn(9, 2), torch.randn(9, 2)
    assert torch.equal(loaded(latent, goal), cost(latent, goal))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    options = (
        "tracking=none", "goal.columns=[state]", "value.levels=[1,2]", "value.steps=50", "value.width=16",
        "planner.graph=none", "planner.level2.value_weight=5",
    )  # fmt: skip
    config = load_config(tiny.overrides(root, *options))
    collect(config)
    train(config)
    return load_agent(root / "tiny" / "hierarchy", allow=["tiny"])


def test_a_search_counts_the_steps_to_the_goal(trained):
    goal = {"state": points(3).numpy()}
    trained.reset(goal)
    trained.act(points(3, 1).numpy())
    top, cost = trained.plan.levels[2], trained.heads.values[2]
    latent = trained.hierarchy.encode({"state": points(3, 1)})[2]
    left = cost(torch.cat([latent.unsqueeze(1), top.predicted], 1), points(3).unsqueeze(1))
    torch.testing.assert_close(top.value, left)
    away = trained.planner.goal.cost(2, top.predicted) + 5 * left[:, 1:]
    torch.testing.assert_close(top.cost, away.amin(1), rtol=1e-4, atol=1e-4)
    now, then = left[0, :2].tolist()
    assert f"predicts {now:.1f} of its steps to the goal; after each action {then:.1f}" in trained.plan.explain()
    indifferent = trained.with_planner(level2={"value_weight": 0})
    indifferent.reset(goal)
    indifferent.act(points(3, 1).numpy())
    assert indifferent.plan.levels[2].value is None
    assert indifferent.plan.other_calls < trained.plan.other_calls
    assert indifferent.plan.predictor_calls == trained.plan.predictor_calls


def test_goals_say_what_the_part_is_to_be(trained):
    first, second = (PartGoal(points(2, seed), trained.heads.readouts) for seed in (0, 1))
    box = BoxRegion(points(2) + 1, points(2) + 2, trained.heads.readouts)
    order = Waypoints([first, second], tolerance=0.0, current=torch.tensor([1, 0]))
    assert torch.equal(order.part, torch.stack([second.part[0], first.part[1]]))
    assert torch.equal(KeepOut(first, box).select(torch.tensor([1])).part, first.part[1:])
    trained.reset(points(2, 4).numpy())  # an array that is the part
    assert torch.equal(trained.planner.goal.part, points(2, 4))
    for goal in (box, AnyOf([first, second]), Waypoints([first, box], tolerance=0.0)):
        assert goal.part is None
        with pytest.raises(
            ValueError, match=rf"planner.level2.value_weight is 5.0; .* because {type(goal).__name__} is not a goal"
        ):
            trained.reset(goal)


def test_what_cannot_be_is_refused(trained):
    without, config = replace(trained.heads, values=()), trained.config.changed({"level1": {"value_weight": 5}})
    with pytest.raises(
        ValueError, match=r"planner.level1.value_weight is 5.0 but level 1 learns no value; .*value.levels=\[1\]"
    ):
        Agent(trained.hierarchy, without, trained.graphs, config, trained.spec)
    with pytest.raises(
        ValueError, match=r"planner.level0.value_weight is 1.0; expected 0, because level 0 does not search"
    ):
        trained.with_planner(level0={"value_weight": 1, "strategy": "follow_inverse"})
    with pytest.raises(ValueError, match=r"value.levels is \[3\]; expected levels from 0 to 2"):
        shipped("value", levels=[3]).check(3, ["state"])
    with pytest.raises(
        ValueError, match=r"value.levels is \[1\] and goal.columns is empty; expected goal.columns that name"
    ):
        shipped("value", levels=[1]).check(3, [])
    with pytest.raises(ValueError, match=r"value.expectile is 1.0; expected less than 1"):
        shipped("value", expectile=1.0)


def test_a_state_is_as_far_as_the_most_cautious_network_predicts():
    onward = torch.tensor([[0.5, 0.2, 0.9, 1.5], [0.1, 0.6, 0.9, 0.9]])
    reached, then_reached = torch.tensor([[False, False, True, False], [False, True, True, False]])
    target = backup(onward, reached, then_reached, 0.9)
    torch.testing.assert_close(target, torch.tensor([1 - 0.9 * 0.5, 1 - 0.9, 0.0, 1.0]))
