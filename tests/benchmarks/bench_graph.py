"""Shortest paths on landmark graphs: `path_costs` against min-plus message passing from inf alone."""

import time

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from hiwm.planning.graph.shortest_paths import path_costs

TIMES = 5


def corridor(num_nodes, seed=0):
    """Nodes on a strip that is 20 times as long as wide; edges to the nearest ones, cost 1 + 0.1 * relative length."""
    rng = np.random.default_rng(seed)
    at = rng.uniform(0, 1, (num_nodes, 2)) * np.array([20, 1.0])
    end = cKDTree(at).query(at, 11)[1][:, 1:].ravel()
    edges = np.stack([np.repeat(np.arange(num_nodes), 10), end])[:, rng.random(len(end)) < 0.8]
    length = np.linalg.norm(at[edges[0]] - at[edges[1]], axis=1).astype(np.float32)
    goals = rng.choice(num_nodes, 50, replace=False)
    return torch.from_numpy(edges), torch.from_numpy(1 + np.float32(0.1) * length / length.mean()), goals


def seconds(function):
    """The median of `TIMES` calls, after one that does not count."""
    spent = []
    for _ in range(TIMES + 1):
        began = time.perf_counter()
        result = function()
        spent.append(time.perf_counter() - began)
    return float(np.median(spent[1:])), result


@pytest.mark.parametrize("num_nodes", [100, 800, 4000])
def test_milliseconds_of_shortest_paths(num_nodes):
    edges, weights, goals = corridor(num_nodes)
    print(f"\n{num_nodes} nodes, {edges.shape[1]} edges: milliseconds of the costs to go")
    for count in (1, 10, 50):
        goal = torch.from_numpy(goals[:count])
        # a mask that closes nothing asks for message passing
        closed = torch.zeros(num_nodes, count, dtype=torch.bool)
        fast, cost = seconds(lambda goal=goal: path_costs(edges, weights, num_nodes, goal))
        slow, same = seconds(lambda goal=goal, closed=closed: path_costs(edges, weights, num_nodes, goal, closed))
        assert torch.equal(cost, same)
        print(f"  {count:>3} goals{1000 * fast:9.1f}  min-plus alone {1000 * slow:9.1f}  x{slow / fast:.1f}")
