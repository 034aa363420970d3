from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import shipped

from hiwm.data.store import Trajectories
from hiwm.planning.graph.landmarks import LandmarkGraph, build_graph
from hiwm.planning.graph.stochastic import StochasticTransitions, count_transitions


def transitions_of(actions, lost_cost=100.0):
    """From (node, [(end, probability, cost), ...]) of each action."""
    pair = [i for i, (_, ends) in enumerate(actions) for _ in ends]
    end, share, weight = zip(*(outcome for _, ends in actions for outcome in ends), strict=True)
    return StochasticTransitions(
        torch.tensor([node for node, _ in actions]),
        torch.tensor(pair), torch.tensor(end), torch.tensor(share), torch.tensor(weight), lost_cost,
    )  # fmt: skip


def test_where_every_action_has_one_outcome_it_is_the_shortest_path():
    chain = transitions_of([(0, [(1, 1.0, 1.0)]), (1, [(2, 1.0, 1.5)]), (0, [(2, 1.0, 3.0)]), (3, [(0, 1.0, 1.0)])])
    cost = chain.cost_to_go(torch.tensor([2, 0]), 4)
    inf = torch.inf
    torch.testing.assert_close(cost.T, torch.tensor([[2.5, 1.5, 0, 3.5], [0, inf, inf, 1.0]]))
    assert chain.successors(cost).T.tolist() == [[1, 2, 2, 0], [0, 1, 2, 0]]


def test_an_agent_at_a_closed_node_is_lost():
    world = transitions_of([(0, [(1, 1.0, 1.0)]), (1, [(3, 1.0, 1.0)]), (0, [(2, 1.0, 2.0)]), (2, [(3, 1.0, 2.0)])])
    closed = torch.tensor([[False] * 4, [False, True, False, False]]).T
    cost = world.cost_to_go(torch.tensor([3, 3]), 4, closed)
    torch.testing.assert_close(cost.T, torch.tensor([[2.0, 1, 2, 0], [4, torch.inf, 2, 0]]))
    assert world.successors(cost)[0].tolist() == [1, 2]


def test_trying_again_costs_its_expectation():
    # geometric: 1 / share tries
    cost = transitions_of([(0, [(1, 0.2, 1.0), (0, 0.8, 1.0)])]).cost_to_go(torch.tensor([1]), 2)
    assert cost[0, 0].item() == pytest.approx(5.0, abs=0.05)


@pytest.mark.parametrize(("lost_cost", "onward"), [(5.0, 3), (100.0, 1)])
def test_a_gamble_is_weighed_against_the_long_way(lost_cost, onward):
    """From 0: by 1 and 2 to the goal 3 in three edges, or four times of five there at once and else lost."""
    world = transitions_of(
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
    found = count_transitions(
        start, action, end, torch.full((4000,), 1.25), num_clusters=2, min_tries=5, lost_cost=9.0, seed=0
    )
    assert sorted(found.node.tolist()) == [0, 0, 1, 1]
    totals = torch.zeros(4).index_add(0, found.pair, found.probability)
    torch.testing.assert_close(totals, torch.ones(4))
    ways = {
        (int(found.node[p]), int(e)): float(s)
        for p, e, s in zip(found.pair, found.end, found.probability, strict=True)
        if s < 1
    }
    assert set(ways) == {(0, 1), (0, 2)}
    assert ways[0, 1] == pytest.approx(lucky[(start == 0) & left].float().mean().item())
    assert (found.cost == 1.25).all()
    few = count_transitions(start, action, end, torch.ones(4000), num_clusters=2, min_tries=1100, lost_cost=9.0, seed=0)
    assert len(few.node) < 4  # an action that was hardly tried is not believed


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


CONFIG = shipped(
    "graph",
    num_nodes=30,
    edge_steps=1,
    num_transitions=20_000,
    transitions="stochastic",
    num_clusters=3,
    lost_cost=50.0,
)


def test_a_teleporter_is_not_trusted_blindly(tmp_path):
    data = teleporter()
    expected = build_graph(data, data.column("action"), CONFIG, seed=0)
    best = build_graph(data, data.column("action"), CONFIG.changed({"transitions": "deterministic"}), seed=0)
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
    graph = build_graph(data, data.column("action"), CONFIG, seed=0)
    at, goal = (graph.nearest(torch.tensor([[x, 0.0]])) for x in (5.0, 9.0))
    following = graph.successors(graph.cost_to_go(goal))[at, 0]
    assert graph.latents[following, 0].item() > 7


@pytest.mark.parametrize("bad", [torch.nan, -1.0, torch.inf])
@pytest.mark.parametrize("name", ["probability", "cost", "lost_cost"])
def test_numbers_for_which_value_iteration_would_not_end_are_refused(name, bad):
    whole = {"probability": torch.ones(2), "cost": torch.ones(2), "lost_cost": 9.0}
    whole[name] = bad if name == "lost_cost" else torch.tensor([1.0, bad])
    index = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=rf"{name} of stochastic transitions is {bad}; expected finite numbers"):
        StochasticTransitions(node=index[:1], pair=index, end=index, **whole)


def test_the_kind_of_transitions_is_checked():
    with pytest.raises(ValueError, match=r"graph.transitions is 'worst'; expected deterministic, stochastic"):
        shipped("graph", transitions="worst")
