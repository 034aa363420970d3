"""The float32 costs that message passing from inf reaches, whichever way they are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from hiwm.planning.graph import shortest_paths
from hiwm.planning.graph.shortest_paths import path_costs


def bellman_ford(edges, weights, num_nodes, goals, closed=None):
    """From inf, sweep after sweep, in float32."""
    cost = torch.full((num_nodes, len(goals)), torch.inf)
    cost[goals, torch.arange(len(goals))] = 0
    start, end = edges
    while True:
        through = weights.unsqueeze(1) + cost[end]
        lower = cost.scatter_reduce(0, start.unsqueeze(1).expand_as(through), through, "amin")
        lower = lower if closed is None else lower.masked_fill(closed, torch.inf)
        if torch.equal(lower, cost):
            return cost
        cost = lower


def sparse_graph(rng, kind):
    """Dead ends and nodes without a path to the goals; weights full of ties, or any float32."""
    num_nodes = int(rng.integers(2, 60))
    edges = np.unique(rng.integers(num_nodes, size=(2, 3 * num_nodes)), axis=1)
    edges = edges[:, edges[0] != edges[1]]
    weights = {
        "ties": lambda n: rng.integers(1, 4, n) / 8,
        "one": np.ones,
        "real": lambda n: 1 + 0.1 * rng.random(n, np.float32),
        "wide": lambda n: 10.0 ** rng.uniform(-8, 8, n),
        "absorbed": lambda n: np.where(rng.random(n) < 0.5, 1e-9, 1.0),
        "decimal": lambda n: rng.integers(1, 4, n) / 10,
    }[kind](edges.shape[1])
    return edges, weights.astype(np.float32), num_nodes


def corridor(rng):
    """A long narrow strip with many paths of nearly the same cost: 1 + 0.1 * relative length, as `build_graph` has it."""
    num_nodes = 300
    at = rng.uniform(0, 1, (num_nodes, 2)) * np.array([30, 1.0])
    end = cKDTree(at).query(at, 9)[1][:, 1:].ravel()
    edges = np.stack([np.repeat(np.arange(num_nodes), 8), end])[:, rng.random(len(end)) < 0.8]
    length = np.linalg.norm(at[edges[0]] - at[edges[1]], axis=1).astype(np.float32)
    return edges, 1 + np.float32(0.1) * length / length.mean(), num_nodes


def compare(edges, weights, num_nodes, rng, closed=False):
    goals = torch.from_numpy(rng.choice(num_nodes, min(7, num_nodes), replace=False))
    edges, weights = torch.from_numpy(edges), torch.from_numpy(weights)
    mask = torch.from_numpy(rng.random((num_nodes, len(goals))) < 0.1) if closed else None
    expected = bellman_ford(edges, weights, num_nodes, goals, mask)
    assert torch.equal(path_costs(edges, weights, num_nodes, goals, mask), expected)
    return expected


@pytest.mark.parametrize("kind", ["ties", "one", "real", "wide", "absorbed", "decimal"])
def test_costs_are_those_of_message_passing_to_the_last_bit(kind):
    rng = np.random.default_rng(0)
    costs = torch.cat([compare(*sparse_graph(rng, kind), rng).flatten() for _ in range(60)])
    assert costs.isinf().any()
    assert (costs.isfinite() & (costs > 0)).any()


def test_costs_of_long_paths_are_those_of_message_passing_to_the_last_bit():
    rng = np.random.default_rng(1)
    costs = [compare(*corridor(rng), rng) for _ in range(30)]
    assert max(cost[cost.isfinite()].max() for cost in costs) > 30


def test_the_paths_that_are_best_in_float64_are_not_always_best_in_float32():
    """Multiples of 0.1 are rounded: without the sweeps, paths whose costs differ in float64 alone would be told apart."""
    rng, corrected = np.random.default_rng(1), 0
    for _ in range(10):
        edges, weights, num_nodes = corridor(rng)
        weights = (rng.integers(1, 4, len(weights)) / 10).astype(np.float32)
        exact = compare(edges, weights, num_nodes, rng)
        goals = (exact == 0).T.nonzero()[:, 1]
        upper = shortest_paths._dijkstra(edges, weights, num_nodes, goals.numpy())
        assert (upper >= exact).all()
        corrected += not torch.equal(upper, exact)
    assert corrected


def test_costs_with_closed_nodes():
    rng = np.random.default_rng(2)
    for _ in range(60):
        compare(*sparse_graph(rng, "real"), rng, closed=True)


def test_several_edges_between_two_nodes_the_cheapest_counts():
    edges, weights = torch.tensor([[0, 0, 0, 1], [1, 1, 1, 2]]), torch.tensor([3.0, 1.0, 2.0, 1.0])
    assert path_costs(edges, weights, 3, torch.tensor([2])).flatten().tolist() == [2, 1, 0]


def test_a_graph_without_edges_and_goals_at_one_node():
    none = torch.zeros(2, 0, dtype=torch.long)
    assert path_costs(none, torch.zeros(0), 2, torch.tensor([1])).flatten().tolist() == [torch.inf, 0]
    edges = torch.tensor([[0], [1]])
    assert path_costs(edges, torch.ones(1), 2, torch.tensor([1, 1])).tolist() == [[1, 1], [0, 0]]
