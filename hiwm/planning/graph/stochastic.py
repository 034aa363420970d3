"""Expected costs over landmarks where an action can have more than one outcome.

An edge of a landmark graph shows that a transition occurred in the data, not that an agent can choose it. In a stochastic
environment, costs are expectations over the outcomes of an action: a stochastic shortest path (Bertsekas & Tsitsiklis 1991), with the
nodes of the graph as states and clusters of the level's actions as actions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from hiwm.planning.graph.shortest_paths import SWEEPS_PER_CHECK

PRECISION = 1e-3  # in edges; value iteration ends when no cost falls by more than this


@dataclass(frozen=True)
class StochasticTransitions:
    """The outcomes of actions at nodes: P pairs of a node and an action cluster, and T outcomes of these pairs.

    Args:
        node: node of each pair, (P,).
        pair: index of the pair that each outcome belongs to, (T,).
        end: node that each outcome leads to, (T,); M, one beyond the last node, for an outcome off the graph (lost).
        probability: share of the pair's transitions that had this outcome, (T,); sums to 1 over the outcomes of a pair.
        cost: cost of each outcome's transition, in edges, (T,).
        lost_cost: cost of being lost, and upper bound of all costs.

    Raises:
        ValueError: a probability or a cost is negative or not finite, so that value iteration would not end.
    """

    node: Tensor
    pair: Tensor
    end: Tensor
    probability: Tensor
    cost: Tensor
    lost_cost: float

    def __post_init__(self) -> None:
        named = {"probability": self.probability, "cost": self.cost, "lost_cost": torch.tensor(self.lost_cost)}
        for name, values in named.items():
            bad = values[~((values >= 0) & (values < torch.inf))]
            if len(bad):
                raise ValueError(
                    f"{name} of stochastic transitions is {bad[0].item()}; expected finite numbers, at least 0. "
                    "Look for NaN in the latents of the level, or build the graph again"
                )

    def cost_to_go(self, goal: Tensor, num_nodes: int, closed: Tensor | None = None) -> Tensor:
        """Expected cost from each node to each goal, inf where it is no less than being lost, (M, G).

        Args:
            goal: node of each goal, (G,).
            num_nodes: number of nodes M.
            closed: nodes where an agent is lost, (M, G); None for none.
        """
        columns = torch.arange(len(goal), device=goal.device)
        cost = torch.full((num_nodes + 1, len(goal)), self.lost_cost, device=goal.device)
        cost[goal, columns] = 0.0
        # scatter would give a node without any action the cost 0
        lost = (scatter(torch.ones_like(self.node), self.node, 0, num_nodes + 1) == 0).unsqueeze(1)
        if closed is not None:
            lost = lost | torch.cat([closed, torch.ones_like(closed[:1])])
        best = cost
        for sweep in itertools.count(1):
            best = scatter(self.action_costs(cost), self.node, 0, num_nodes + 1, reduce="min")
            best = best.masked_fill(lost, self.lost_cost).clamp(max=self.lost_cost)
            best[goal, columns] = 0.0
            looks = cost.device.type == "cpu" or sweep % SWEEPS_PER_CHECK == 0
            if looks and (cost - best).max() < PRECISION:
                break
            cost = best
        return torch.where(best < self.lost_cost - PRECISION, best, torch.inf)[:num_nodes]

    def action_costs(self, cost: Tensor) -> Tensor:
        """Expected cost of every pair of a node and an action, (M + 1, G) -> (P, G)."""
        through = self.probability.unsqueeze(1) * (self.cost.unsqueeze(1) + cost[self.end])
        return scatter(through, self.pair, 0, len(self.node), reduce="sum")

    def successors(self, cost: Tensor) -> Tensor:
        """The most likely next node under the best action of each node, (M, G) costs -> (M, G).

        Only outcomes that are nearer to the goal count. The node itself at a goal or when lost.
        """
        num_nodes = len(cost)
        known = torch.cat([cost, torch.full_like(cost[:1], torch.inf)]).clamp(max=self.lost_cost)
        actions = self.action_costs(known)
        best = scatter(actions, self.node, 0, num_nodes, reduce="min")
        chosen = actions <= best[self.node]  # (P, G)
        start = self.node[self.pair]
        nearer = chosen[self.pair] & (known[self.end] < known[start])  # (T, G)
        likely = torch.where(nearer, self.probability.unsqueeze(1), 0.0)
        most = scatter(likely, start, 0, num_nodes, reduce="max")
        is_most = nearer & (likely == most[start])
        itself = torch.arange(num_nodes, device=cost.device).unsqueeze(1).expand_as(cost)
        # the first of equally likely ones, on every device
        first = torch.where(is_most, self.end.unsqueeze(1), num_nodes)
        found = itself.scatter_reduce(0, start.unsqueeze(1).expand_as(first), first, "amin", include_self=False)
        return torch.where((found < num_nodes) & (cost > 0) & torch.isfinite(cost), found, itself)


def count_transitions(
    start: Tensor,
    action: np.ndarray,
    end: Tensor,
    cost: Tensor,
    *,
    num_clusters: int,
    min_tries: int,
    lost_cost: float,
    seed: int,
) -> StochasticTransitions:
    """Estimate the outcomes of actions from N observed transitions.

    Args:
        start: node before each transition, (N,).
        action: action of each transition, (N, A).
        end: node after each transition, (N,); M for none.
        cost: cost of each transition, (N,).
        num_clusters: number of action clusters.
        min_tries: fewest transitions for an action cluster at a node to be kept.
        lost_cost: see `StochasticTransitions`.
        seed: random seed of the clustering.
    """
    scaled = (action - action.mean(0)) / (action.std(0) + 1e-9)
    _, cluster = kmeans2(scaled, num_clusters, minit="++", seed=seed)  # type: ignore[call-arg]  # scipy >= 1.15 calls it rng too
    clusters = torch.from_numpy(cluster).long()
    pairs, pair, count = torch.unique(start * num_clusters + clusters, return_inverse=True, return_counts=True)
    kept = count >= min_tries
    number = torch.cumsum(kept, 0) - 1  # of the kept pairs
    used = kept[pair]
    ends = int(end.max()) + 1
    outcomes, outcome, times = torch.unique(
        number[pair[used]] * ends + end[used], return_inverse=True, return_counts=True
    )
    of_pair = outcomes // ends
    return StochasticTransitions(
        node=pairs[kept] // num_clusters,
        pair=of_pair,
        end=outcomes % ends,
        probability=times / count[kept][of_pair],
        cost=scatter(cost[used], outcome, 0, len(outcomes), reduce="mean"),
        lost_cost=lost_cost,
    )


def scatter(*arguments: Any, **named: Any) -> Tensor:
    """`torch_geometric.utils.scatter`, whose import takes seconds."""
    from torch_geometric.utils import scatter

    return scatter(*arguments, **named)
