from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hiwm.data.store import Trajectories
from hiwm.planning.landmarks import LandmarkConfig, LandmarkGraph, build_landmarks
from hiwm.planning.outcomes import Outcomes, find_outcomes


def outcomes_of(told, lost_cost=100.0):
    """From (landmark, [(end, share, weight), ...]) of each action."""
    pair = [i for i, (_, ends) in enumerate(told) for _ in ends]
    end, share, weight = zip(*(outcome for _, ends in told for outcome in ends), strict=True)
    return Outcomes(
        torch.tensor([landmark for landmark, _ in told]),
        torch.tensor(pair), torch.tensor(end), torch.tensor(share), torch.tensor(weight), lost_cost,
    )  # fmt: skip


def test_where_every_action_has_one_outcome_it_is_the_shortest_path():
    chain = outcomes_of([(0, [(1, 1.0, 1.0)]), (1, [(2, 1.0, 1.5)]), (0, [(2, 1.0, 3.0)]), (3, [(0, 1.0, 1.0)])])
    cost = chain.cost_to_go(torch.tensor([2, 0]), 4)
    inf = torch.inf
    torch.testing.assert_close(cost.T, torch.tensor([[2.5, 1.5, 0, 3.5], [0, inf, inf, 1.0]]))
    assert chain.successors(cost).T.tolist() == [[1, 2, 2, 0], [0, 1, 2, 0]]


def test_to_be_at_a_closed_landmark_is_to_be_lost():
    world = outcomes_of([(0, [(1, 1.0, 1.0)]), (1, [(3, 1.0, 1.0)]), (0, [(2, 1.0, 2.0)]), (2, [(3, 1.0, 2.0)])])
    closed = torch.tensor([[False] * 4, [False, True, False, False]]).T
    cost = world.cost_to_go(torch.tensor([3, 3]), 4, closed)
    torch.testing.assert_close(cost.T, torch.tensor([[2.0, 1, 2, 0], [4, torch.inf, 2, 0]]))
    assert world.successors(cost)[0].tolist() == [1, 2]


def test_trying_again_costs_its_expectation():
    # geometric: 1 / share tries
    cost = outcomes_of([(0, [(1, 0.2, 1.0), (0, 0.8, 1.0)])]).cost_to_go(torch.tensor([1]), 2)
    assert cost[0, 0].item() == pytest.approx(5.0, abs=0.05)


@pytest.mark.parametrize(("lost_cost", "onward"), [(5.0, 3), (100.0, 1)])
def test_a_gamble_is_weighed_against_the_long_way(lost_cost, onward):
    """From 0: by 1 and 2 to the goal 3 in three edges, or four times of five there at once and else lost."""
    world = outcomes_of(
        [
            (0, [(1, 1.0, 1.0)]), (1, [(2, 1.0, 1.0)]), (2, [(3, 1.0, 1.0)]),
            (0, [(3, 0.8, 1.0), (4, 0.2, 1.0)]),
        ],
        lost_cost,
    )  # fmt: skip
    cost = world.cost_to_go(torch.tensor([3]), 4)
    assert cost[0, 0].item() == pytest.approx(min(3.0, 1 + 0.2 * lost_cost), abs=0.01)
    assert world.successors(cost)[0, 0] == onward


def test_outcomes_are_counted():
    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.integers(0, 2, 4000))
    left = torch.from_numpy(rng.random(4000) < 0.5)
    lucky = torch.from_numpy(rng.random(4000) < 0.3)
    # from 0, left leads to 1 or to 2; all else to 1
    end = torch.where((start == 0) & left & ~lucky, 2, 1)
    action = np.where(left.numpy()[:, None], [-1.0, 0.0], [1.0, 0.0]) + rng.normal(0, 0.05, (4000, 2))
    found = find_outcomes(start, action, end, torch.full((4000,), 1.25), clusters=2, least=5, lost_cost=9.0, seed=0)
    assert sorted(found.landmark.tolist()) == [0, 0, 1, 1]
    totals = torch.zeros(4).index_add(0, found.pair, found.share)
    torch.testing.assert_close(totals, torch.ones(4))
    ways = {
        (int(found.landmark[p]), int(e)): float(s)
        for p, e, s in zip(found.pair, found.end, found.share, strict=True)
        if s < 1
    }
    assert set(ways) == {(0, 1), (0, 2)}
    assert ways[0, 1] == pytest.approx(lucky[(start == 0) & left].float().mean().item())
    assert (found.weight == 1.25).all()
    few = find_outcomes(start, action, end, torch.ones(4000), clusters=2, least=1100, lost_cost=9.0, seed=0)
    assert len(few.landmark) < 4  # an action that was hardly tried is not believed


def teleporter(episodes=300, steps=40):
    """A corridor 0 to 10, walked both ways; at 5 a step up leads to 9 or, as often, to a pit at y = 5 without a way out."""
    rng = np.random.default_rng(0)
    latents, actions = [], []
    for _ in range(episodes):
        x, y, direction = rng.uniform(0, 10), 0.0, rng.choice([-1.0, 1.0])
        for _ in range(steps):
            direction = -direction if (x + direction > 10 or x + direction < 0) else direction
            up = abs(x - 5) < 0.5 and y == 0 and rng.random() < 0.5
            action = (0.0, 1.0) if up else (direction, 0.0)
            latents.append((x, y))
            actions.append(action)
            if up:
                x, y = (9.0, 0.0) if rng.random() < 0.5 else (5.0, 5.0)
            elif y == 0:
                x += 0.5 * action[0]
    columns = {"latent": np.array(latents, np.float32), "action": np.array(actions, np.float32)}
    length = np.full(episodes, steps)
    return Trajectories(Path("teleporter"), columns, length, np.cumsum(length) - length)


CONFIG = LandmarkConfig(landmarks=30, edge_steps=1, transitions=20_000, outcomes="expected", clusters=3, lost_cost=50.0)


def test_a_teleporter_is_not_trusted_blindly(tmp_path):
    data = teleporter()
    expected = build_landmarks(data, data.column("action"), CONFIG, seed=0)
    best = build_landmarks(data, data.column("action"), replace(CONFIG, outcomes="best"), seed=0)
    assert torch.equal(expected.latents, best.latents)
    at, goal = (expected.nearest(torch.tensor([[x, 0.0]])) for x in (5.0, 9.0))
    for graph, jumps in ((best, True), (expected, False)):
        following = graph.successors(graph.cost_to_go(goal))[at, 0]
        assert (graph.latents[following, 0].item() > 7) == jumps
    # half the time lost, half the time there: the gamble costs about 1 + 50 / 2
    assert 4 < expected.cost_to_go(goal)[at, 0].item() < 25
    expected.save(tmp_path / "graph.safetensors")
    loaded = LandmarkGraph.load(tmp_path / "graph.safetensors")
    assert torch.equal(loaded.cost_to_go(goal), expected.cost_to_go(goal))


def test_without_a_pit_the_teleporter_is_worth_a_try():
    data = teleporter()
    column = data.columns["latent"]
    fell = column[:, 1] == 5
    column[fell] = np.stack([np.full(fell.sum(), 5.0), np.zeros(fell.sum())], 1)  # nothing happens
    graph = build_landmarks(data, data.column("action"), CONFIG, seed=0)
    at, goal = (graph.nearest(torch.tensor([[x, 0.0]])) for x in (5.0, 9.0))
    following = graph.successors(graph.cost_to_go(goal))[at, 0]
    assert graph.latents[following, 0].item() > 7


def test_outcomes_config_is_checked():
    with pytest.raises(ValueError, match=r"landmarks.outcomes is 'worst'; allowed: best, expected"):
        LandmarkConfig(outcomes="worst")
