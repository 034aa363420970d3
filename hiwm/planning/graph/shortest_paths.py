"""Shortest paths in float32 from every node of a graph to some goals.

The costs are the fixed point of min-plus message passing (Bellman-Ford), cost_i = min_j (w_ij + cost_j), computed in
float32. Message passing starts from an upper bound of the costs and ends when a sweep changes nothing:

- On a CPU and without closed nodes, the upper bound comes from Dijkstra's algorithm (scipy, float64): the costs of its
  paths, added up again in float32. One or two sweeps then remain.
- On a GPU, or where nodes are closed for some of the goals, the upper bound is inf, and there are as many sweeps as the
  longest path has edges. A GPU runs a sweep faster than it would wait for the CPU, and Dijkstra's algorithm would need
  a graph of its own for each goal.

Both give the same floats. One sweep T is monotone because rounding is monotone: x <= y implies T(x) <= T(y). From inf, T
reaches the costs x*, the least over all paths, each added up in float32 from the goal outwards. The costs y of Dijkstra's
paths lie between x* and inf. Hence x* = T^n(x*) <= T^n(y) <= T^n(inf) = x* for a large n.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

SWEEPS_PER_CHECK = 32  # on a GPU, for which the CPU has to wait at every check


def path_costs(edges: Tensor, weights: Tensor, num_nodes: int, goals: Tensor, closed: Tensor | None = None) -> Tensor:
    """Cost of the shortest path from each node to each goal, inf where there is none, (M, G).

    Args:
        edges: from, to, (2, E).
        weights: costs of the edges, positive, (E,).
        num_nodes: M.
        goals: node of each goal, (G,).
        closed: nodes that no path may enter, whose own cost is inf too, (M, G); None for none.
    """
    from torch_geometric.utils import add_self_loops  # takes seconds to import

    from hiwm.planning.graph.min_plus import MinPlus

    if closed is None and weights.device.type == "cpu":
        cost = _dijkstra(edges.numpy(), weights.numpy(), num_nodes, goals.numpy())
    else:
        cost = torch.full((num_nodes, len(goals)), torch.inf, device=goals.device)
        cost[goals, torch.arange(len(goals), device=goals.device)] = 0.0
    sweep = MinPlus()
    edges, weights = add_self_loops(edges, weights, fill_value=0.0, num_nodes=num_nodes)
    sweeps = 1 if weights.device.type == "cpu" else SWEEPS_PER_CHECK
    while True:
        lower = cost
        for _ in range(sweeps):
            lower = sweep(lower, edges, weights)
            lower = lower if closed is None else lower.masked_fill(closed, torch.inf)
        if torch.equal(lower, cost):  # more sweeps would change nothing
            return cost
        cost = lower


def _dijkstra(edges: np.ndarray, weights: np.ndarray, num_nodes: int, goals: np.ndarray) -> Tensor:
    """Costs of the paths that Dijkstra's algorithm finds, added up in float32 from the goals outwards, (M, G)."""
    start, end = edges
    backwards = csr_array((weights, (end, start)), shape=(num_nodes, num_nodes), dtype=np.float64)
    _, parent = dijkstra(backwards, indices=goals, return_predecessors=True)  # (G, M): next node towards the goal
    moves = parent >= 0  # neither the goal itself nor without a path
    names = start * num_nodes + end
    order = names.argsort(kind="stable")
    wanted = (np.arange(num_nodes) * num_nodes + parent)[moves]
    weight = np.zeros(parent.shape, np.float32)
    weight[moves] = weights[order[np.searchsorted(names, wanted, sorter=order)]]
    cost = np.full(parent.shape, np.inf, np.float32)
    cost[np.arange(len(goals)), goals] = 0
    # one tree for each goal, in flat indices
    root = num_nodes * np.arange(len(goals))[:, None]
    parent = root + np.where(moves, parent, np.arange(num_nodes))
    return torch.from_numpy(_add_up(cost.ravel(), weight.ravel(), parent.ravel(), moves.ravel()).reshape(cost.shape).T)


def _add_up(cost: np.ndarray, weight: np.ndarray, parent: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """cost[i] = weight[i] + cost[parent[i]] wherever i moves, parents first; all (N,)."""
    depth, ancestor = moves.astype(np.int64), parent
    while True:  # each round doubles the distance to the ancestor
        deeper = depth + depth[ancestor]
        if np.array_equal(deeper, depth):
            break
        depth, ancestor = deeper, ancestor[ancestor]
    order = depth.argsort(kind="stable")
    bounds = np.searchsorted(depth[order], np.arange(1, depth.max() + 2))
    for first, last in pairwise(bounds):
        nodes = order[first:last]
        cost[nodes] = weight[nodes] + cost[parent[nodes]]
    return cost
