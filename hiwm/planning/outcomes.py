"""Where actions lead that have more than one outcome: expected cost to go over landmarks.

An edge of a landmark graph says that the data once went that way, not that anyone can decide to. Where the world is
stochastic, costs are expectations over the outcomes of what was done: a stochastic shortest path (Bertsekas & Tsitsiklis
1991), with the landmarks as states and clusters of the level's actions as actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch_geometric.utils import scatter

PRECISION = 1e-3  # in edges: sweeps, in which costs only fall, end when none falls by more


@dataclass(frozen=True)
class Outcomes:
    """What followed which action where. P pairs of a landmark and an action; T outcomes of theirs.

    Args:
        landmark: of each pair, (P,).
        pair: of each outcome, (T,).
        end: landmark of each outcome, (T,); M, beyond the last landmark, for a place that is none: lost.
        share: of the pair's transitions that had this outcome, (T,); those of a pair add up to 1.
        weight: cost of going there, (T,).
        lost_cost: cost of being lost, and most that any way can cost.
    """

    landmark: Tensor
    pair: Tensor
    end: Tensor
    share: Tensor
    weight: Tensor
    lost_cost: float

    def cost_to_go(self, goal: Tensor, number: int, closed: Tensor | None = None) -> Tensor:
        """Expected cost from each of `number` landmarks to the goals' landmarks, (G,) -> (M, G); inf where all is lost.

        To be at a closed one, (M, G), is to be lost.
        """
        columns = torch.arange(len(goal), device=goal.device)
        cost = torch.full((number + 1, len(goal)), self.lost_cost, device=goal.device)
        cost[goal, columns] = 0.0
        # a landmark where nothing was ever done would be answered 0
        lost = (scatter(torch.ones_like(self.landmark), self.landmark, 0, number + 1) == 0).unsqueeze(1)
        if closed is not None:
            lost = lost | torch.cat([closed, torch.ones_like(closed[:1])])
        while True:
            best = scatter(self.of_actions(cost), self.landmark, 0, number + 1, reduce="min")
            best = best.masked_fill(lost, self.lost_cost).clamp(max=self.lost_cost)
            best[goal, columns] = 0.0
            if (cost - best).max() < PRECISION:
                return torch.where(best < self.lost_cost - PRECISION, best, torch.inf)[:number]
            cost = best

    def of_actions(self, cost: Tensor) -> Tensor:
        """Expected cost of every pair of a landmark and an action, (M + 1, G) -> (P, G)."""
        through = self.share.unsqueeze(1) * (self.weight.unsqueeze(1) + cost[self.end])
        return scatter(through, self.pair, 0, len(self.landmark), reduce="sum")

    def successors(self, cost: Tensor) -> Tensor:
        """Where each landmark's best action is most likely to lead on, (M, G) costs -> (M, G); itself at a goal or when lost."""
        number = len(cost)
        known = torch.cat([cost, torch.full_like(cost[:1], torch.inf)]).clamp(max=self.lost_cost)
        actions = self.of_actions(known)
        best = scatter(actions, self.landmark, 0, number, reduce="min")
        chosen = actions <= best[self.landmark]  # (P, G)
        start = self.landmark[self.pair]
        onward = chosen[self.pair] & (known[self.end] < known[start])  # (T, G)
        likely = torch.where(onward, self.share.unsqueeze(1), 0.0)
        most = scatter(likely, start, 0, number, reduce="max")
        is_most = onward & (likely == most[start])
        itself = torch.arange(number, device=cost.device).unsqueeze(1).expand_as(cost)
        # of equally likely ones the first, on every device
        first = torch.where(is_most, self.end.unsqueeze(1), number)
        found = itself.scatter_reduce(0, start.unsqueeze(1).expand_as(first), first, "amin", include_self=False)
        return torch.where((found < number) & (cost > 0) & torch.isfinite(cost), found, itself)


def find_outcomes(
    start: Tensor,
    action: np.ndarray,
    end: Tensor,
    weight: Tensor,
    *,
    clusters: int,
    least: int,
    lost_cost: float,
    seed: int,
) -> Outcomes:
    """Count the outcomes of transitions.

    Args:
        start: landmark before, (N,).
        action: what was done then, (N, A).
        end: landmark after, (N,); M for none.
        weight: cost of every transition, (N,).
        clusters: of actions.
        least: transitions a pair of a landmark and an action needs to be believed.
        lost_cost: see `Outcomes`.
        seed: of the clustering.
    """
    scaled = (action - action.mean(0)) / (action.std(0) + 1e-9)
    _, kind = kmeans2(scaled, clusters, minit="++", seed=seed)  # type: ignore[call-arg]  # scipy >= 1.15 calls it rng too
    kinds = torch.from_numpy(kind).long()
    pairs, pair, count = torch.unique(start * clusters + kinds, return_inverse=True, return_counts=True)
    believed = count >= least
    order = torch.cumsum(believed, 0) - 1  # numbers of the believed pairs
    mine = believed[pair]
    ends = int(end.max()) + 1
    outcomes, outcome, times = torch.unique(
        order[pair[mine]] * ends + end[mine], return_inverse=True, return_counts=True
    )
    of_pair = outcomes // ends
    mean = scatter(weight[mine], outcome, 0, len(outcomes), reduce="mean")
    return Outcomes(
        landmark=pairs[believed] // clusters,
        pair=of_pair,
        end=outcomes % ends,
        share=times / count[believed][of_pair],
        weight=mean,
        lost_cost=lost_cost,
    )
