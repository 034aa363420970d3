"""The paths of a batch of B episodes over a landmark graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hiwm.planning.explain.records import BatchRecord


@dataclass(frozen=True)
class GraphPath(BatchRecord):
    """The node each of B episodes is at, and the path from there to its goal.

    Args:
        current_node: node that each episode is at, (B,).
        target_node: node that is the current target of each episode, (B,).
        goal_node: node that represents the goal of each episode, (B,).
        cost: cost of the path from the current node to the goal node, in edges, (B,); inf if there is no path.
        goal_column: column of each episode's goal in `next_node`, (B,).
        cut_off: whether the node nearest to the episode has no path to the goal, (B,). The current node is then another one.
        next_node: next node on the path from each of M nodes to each of G goals, (M, G).
    """

    current_node: Tensor
    target_node: Tensor
    goal_node: Tensor
    cost: Tensor
    goal_column: Tensor
    cut_off: Tensor
    next_node: Tensor

    def select(self, rows: Tensor) -> GraphPath:
        # `next_node` belongs to the graph, not to the episodes
        per_episode = (self.current_node, self.target_node, self.goal_node, self.cost, self.goal_column, self.cut_off)
        return GraphPath(*(values[rows] for values in per_episode), next_node=self.next_node)

    def alone(self, episode: int) -> GraphPath:
        path = self.select(torch.tensor([episode], device=self.cost.device))
        column = self.next_node[:, self.goal_column[episode], None]
        return GraphPath(
            current_node=path.current_node.cpu(),
            target_node=path.target_node.cpu(),
            goal_node=path.goal_node.cpu(),
            cost=path.cost.cpu(),
            goal_column=torch.zeros(1, dtype=torch.long),
            cut_off=path.cut_off.cpu(),
            next_node=column.cpu(),
        )

    def nodes(self, episode: int) -> list[int]:
        """Nodes from the current node to the goal node of one episode, at most M + 1."""
        next_node = self.next_node[:, self.goal_column[episode]].tolist()
        nodes, goal = [int(self.current_node[episode])], int(self.goal_node[episode])
        while nodes[-1] != goal and len(nodes) <= len(next_node):
            nodes.append(next_node[nodes[-1]])
        return nodes

    def num_edges(self, episode: int) -> int:
        """Number of edges from the current node to the goal node of one episode; at most M."""
        return len(self.nodes(episode)) - 1

    def text(self, episode: int) -> str:
        """The target of one episode, in words."""
        cost, target = float(self.cost[episode]), int(self.target_node[episode])
        if not math.isfinite(cost):
            return f"landmark {target}, although the graph has no path to the goal"
        path = f"landmark {target}, on a path of {self.num_edges(episode)} edges to the goal at cost {cost:.1f}"
        if target == int(self.goal_node[episode]):
            path = "the goal itself, at the end of its path over the landmarks"
        if bool(self.cut_off[episode]):
            path += ", which begins elsewhere, because no path leads from the nearest landmark to the goal"
        return path
