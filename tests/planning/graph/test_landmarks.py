from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from tiny import shipped
from torch_geometric.data import Data

from hiwm.data.store import Trajectories
from hiwm.levels.landmarks import farthest_points
from hiwm.planning.graph.landmarks import LandmarkGraph, build_graph

NO_ACTIONS = np.zeros((0, 1))  # they matter only with stochastic transitions


def graph_of(edges, weights, num_nodes):
    return LandmarkGraph(
        Data(
            x=torch.arange(2.0 * num_nodes).reshape(num_nodes, 2),
            edge_index=torch.as_tensor(edges, dtype=torch.long),
            edge_attr=torch.as_tensor(weights, dtype=torch.float32),
            count=torch.ones(len(weights), dtype=torch.long),
            row=torch.arange(num_nodes),
        ),
        edge_steps=3,
    )


def random_graph(seed, num_nodes=40, num_edges=90):
    """Sparse enough for dead ends and unreachable nodes."""
    rng = np.random.default_rng(seed)
    edges = np.unique(rng.integers(num_nodes, size=(2, num_edges)), axis=1)
    edges = edges[:, edges[0] != edges[1]]
    # multiples of 1/8 are added exactly, whatever the order
    return edges, (rng.integers(1, 30, edges.shape[1]) / 8).astype(np.float32), num_nodes


@pytest.mark.parametrize("seed", range(5))
def test_cost_to_go_is_dijkstras(seed):
    edges, weights, num_nodes = random_graph(seed)
    goals = torch.arange(num_nodes)
    cost = graph_of(edges, weights, num_nodes).cost_to_go(goals)
    backwards = csr_array((weights, (edges[1], edges[0])), shape=(num_nodes, num_nodes))
    expected = dijkstra(backwards, indices=goals.numpy()).T
    assert np.isinf(expected).any()  # dead ends are among them
    np.testing.assert_array_equal(cost.numpy(), expected)


@pytest.mark.parametrize("seed", range(5))
def test_successors_lead_to_the_goal_at_exactly_the_cost(seed):
    edges, weights, num_nodes = random_graph(seed)
    graph = graph_of(edges, weights, num_nodes)
    goals = torch.tensor([0, 7, 19])
    cost = graph.cost_to_go(goals)
    following = graph.successors(cost)
    weight = {(int(a), int(b)): float(w) for a, b, w in zip(*edges, weights, strict=True)}
    walked = 0
    for column, goal in enumerate(goals.tolist()):
        for start in range(num_nodes):
            if not torch.isfinite(cost[start, column]):
                assert following[start, column] == start
                continue
            here, total = start, 0.0
            for _ in range(num_nodes):
                if here == goal:
                    break
                there = int(following[here, column])
                total += weight[here, there]
                here = there
            assert here == goal
            assert total == cost[start, column]
            walked += start != goal
    assert walked > 20


def test_goals_and_dead_ends_are_their_own_successors():
    #  0 -> 1 -> 2 -> 0 and 3 -> 1; nothing leads to 3, and 4 has no edge at all
    graph = graph_of([[0, 1, 2, 3], [1, 2, 0, 1]], [1.0, 1.0, 1.0, 1.0], 5)
    goals = torch.tensor([2, 3])
    cost = graph.cost_to_go(goals)
    inf = float("inf")
    assert cost.T.tolist() == [[2, 1, 0, 2, inf], [inf, inf, inf, 0, inf]]
    assert graph.successors(cost).T.tolist() == [[1, 2, 2, 1, 4], [0, 1, 2, 3, 4]]


def test_no_path_enters_a_closed_node():
    # 0 -> 1 -> 3 is short, 0 -> 2 -> 3 long; for the second goal 1 is closed
    graph = graph_of([[0, 1, 0, 2, 1], [1, 3, 2, 3, 0]], [1.0, 1.0, 2.0, 2.0, 1.0], 4)
    closed = torch.tensor([[False, False, False, False], [False, True, False, False]]).T
    cost = graph.cost_to_go(torch.tensor([3, 3]), closed)
    assert cost.T.tolist() == [[2, 1, 2, 0], [4, torch.inf, 2, 0]]
    assert graph.successors(cost).T.tolist() == [[1, 3, 3, 3], [2, 3, 3, 3]]  # there is a path out of it


def test_nearest():
    graph = graph_of([[0, 1], [1, 0]], [1.0, 1.0], 3)  # landmarks at (0, 1), (2, 3), (4, 5)
    latents = torch.tensor([[[0.1, 1.2], [9.0, 9.0]], [[2.2, 2.9], [-5.0, 0.0]]])
    assert graph.nearest(latents).tolist() == [[0, 2], [1, 0]]


def test_farthest_points_are_greedy():
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    chosen = farthest_points(points, 25, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == 25
    for n in range(1, 25):
        distance = torch.cdist(points, points[chosen[:n]]).amin(1)
        assert distance[chosen[n]] == pytest.approx(float(distance.max()), rel=1e-4)


def test_farthest_points_are_at_most_all():
    chosen = farthest_points(torch.arange(6.0).reshape(6, 1), 20, np.random.default_rng(0))
    assert sorted(chosen.tolist()) == list(range(6))


def corridors(episodes=20, steps=41):
    """Two corridors, y = 0 and y = 0.4, walked both ways; nothing ever crosses from one to the other."""
    rng = np.random.default_rng(0)
    latents = []
    for e in range(episodes):
        x = np.linspace(0, 4, steps) + rng.normal(0, 0.01, steps)
        # each episode walks there and back: a corridor is strongly connected
        x = np.concatenate([x, x[::-1]])
        latents.append(np.stack([x, np.full(len(x), 0.4 * (e % 5 == 0))], 1))
    length = np.full(episodes, 2 * steps)
    column = np.concatenate(latents).astype(np.float32)
    return Trajectories(Path("corridors"), {"latent": column}, length, np.cumsum(length) - length)


CONFIG = shipped(
    "graph", num_nodes=60, edge_steps=4, num_transitions=10_000, num_candidates=1500, length_cost=0.1, min_component=2
)


def test_edges_are_those_of_the_data_and_components_stay_apart():
    data = corridors()
    graph = build_graph(data, NO_ACTIONS, CONFIG, seed=0)
    column = torch.from_numpy(data.column("latent"))
    assert torch.equal(column[graph.data.row], graph.latents)

    # two corridors that no episode connects: both are kept, each can be walked from end to end
    start, end = graph.data.edge_index
    assert len(set(graph.latents[:, 1].tolist())) == 2
    adjacency = csr_array((np.ones(len(start)), (start.numpy(), end.numpy())), shape=(len(graph.latents),) * 2)
    groups, group = connected_components(adjacency, directed=True, connection="strong")
    assert groups == 2
    assert (torch.from_numpy(group) == (graph.latents[:, 1] == graph.latents[group == 1][0, 1])).all()
    smaller = min(np.bincount(group))
    assert smaller >= 5
    alone = build_graph(data, NO_ACTIONS, CONFIG.changed({"min_component": int(smaller) + 1}), seed=0)
    assert len(set(alone.latents[:, 1].tolist())) == 1

    # every edge lies within the reach of edge_steps steps: 4 * 0.1, half a cell of error at either end, noise
    length = (graph.latents[start] - graph.latents[end]).norm(dim=1)
    assert length.max() < 0.4 + 2 * 0.1 + 0.1
    assert graph.edge_length == pytest.approx(float(length.mean()))
    expected = 1 + CONFIG.length_cost * length / graph.edge_length
    assert (graph.data.edge_attr / expected - 1).abs().max() < 0.05  # the mean length is that before the cut


def test_edges_count_the_transitions():
    """With a landmark at every state of a deterministic ring, edges and counts are known."""
    ring = np.tile(np.eye(6, dtype=np.float32), (5, 1))
    data = Trajectories(Path("ring"), {"latent": ring}, np.array([30]), np.array([0]))
    config = CONFIG.changed({"num_nodes": 6, "edge_steps": 2})
    graph = build_graph(data, NO_ACTIONS, config, seed=0)
    states = graph.latents.argmax(1)
    edges = {
        (int(states[a]), int(states[b])): int(n)
        for a, b, n in zip(*graph.data.edge_index, graph.data.count, strict=True)
    }
    # two steps along a ring of six make two rings of three; 28 transitions
    assert edges == {(0, 2): 5, (2, 4): 5, (4, 0): 4, (1, 3): 5, (3, 5): 5, (5, 1): 4}
    assert graph.edge_steps == 2


def test_min_count_drops_edges_seen_too_seldom():
    # 0 <-> 1 twenty times, and a visit to 2
    walk = np.array([0, 1] * 20 + [2] + [0, 1] * 3)
    data = Trajectories(
        Path("walk"), {"latent": np.eye(3, dtype=np.float32)[walk]}, np.array([len(walk)]), np.array([0])
    )
    sizes = []
    for min_count in (1, 2):
        config = CONFIG.changed({"num_nodes": 3, "edge_steps": 1, "min_count": min_count})
        sizes.append(len(build_graph(data, NO_ACTIONS, config, seed=0).latents))
    assert sizes == [3, 2]


def test_same_seed_same_graph():
    one, same, other = (build_graph(corridors(), NO_ACTIONS, CONFIG, seed) for seed in (0, 0, 1))
    assert torch.equal(one.latents, same.latents)
    assert torch.equal(one.data.edge_index, same.data.edge_index)
    assert one.latents.shape != other.latents.shape or not torch.equal(one.latents, other.latents)


def test_save_and_load(tmp_path):
    graph = build_graph(corridors(), NO_ACTIONS, CONFIG, seed=0)
    graph.save(tmp_path / "graph.safetensors")
    loaded = LandmarkGraph.load(tmp_path / "graph.safetensors")
    for name in ("x", "edge_index", "edge_attr", "count", "row"):
        assert torch.equal(loaded.data[name], graph.data[name])
    assert loaded.edge_steps == graph.edge_steps == 4
    assert torch.equal(loaded.edge_length, graph.edge_length)


@pytest.mark.parametrize("edge_steps", [82, 500])
def test_edges_longer_than_episodes_are_refused(edge_steps):
    with pytest.raises(ValueError, match=rf"graph.edge_steps is {edge_steps}.*82"):
        build_graph(corridors(), NO_ACTIONS, CONFIG.changed({"edge_steps": edge_steps}), seed=0)


@pytest.mark.parametrize("bad", [torch.nan, -1.0, 0.0])
def test_edge_costs_without_shortest_paths_are_refused(bad):
    with pytest.raises(
        ValueError,
        match=rf"1 of 2 edges of the landmark graph have invalid costs, for example {bad}; expected positive numbers",
    ):
        graph_of([[0, 1], [1, 0]], [1.0, bad], 2)


def test_latents_that_are_nan_are_refused():
    data = corridors()
    data.columns["latent"][5] = np.nan
    with pytest.raises(ValueError, match="Look for NaN in the latents"):
        build_graph(data, NO_ACTIONS, CONFIG, seed=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_nodes": 1}, "graph.num_nodes is 1; expected at least 2"),
        ({"length_cost": -0.1}, "graph.length_cost is -0.1; expected at least 0"),
        ({"landmarks": 800}, "unknown key graph.landmarks; expected one of edge_steps"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        shipped("graph", **values)
