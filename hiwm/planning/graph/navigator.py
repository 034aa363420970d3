"""Gives the top level landmarks on the path to the goal as its targets."""

from __future__ import annotations

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from hiwm.planning.explain.graph_path import GraphPath
from hiwm.planning.goals import Goal, distance_to
from hiwm.planning.graph.edge_memory import EdgeMemory
from hiwm.planning.graph.landmarks import LandmarkGraph, adjacency
from hiwm.planning.rollout import Rollout
from hiwm.planning.targets import Target

ARRIVAL_RADIUS = 0.5  # of a mean edge length: a target node this near counts as reached


class GraphNavigator:
    """Follows a landmark graph to the goals of a batch of B episodes, and learns which of its paths fail.

    Args:
        graph: of one level.
        level: number of the level.
        hops: edges from the current node to the target node.
        failure_penalty: cost added to the edges of a path that failed, in edges; 0 to learn nothing.
        patience: a path has failed if within `patience` times its deadline the cost to go has not dropped.
        p: power of the distance of the level.
    """

    def __init__(
        self, graph: LandmarkGraph, level: int, hops: int, failure_penalty: float, patience: float, p: int = 2
    ) -> None:
        self.graph, self.level, self.p = graph, level, p
        self.hops = hops
        self.failure_penalty = failure_penalty
        self.deadline = hops * graph.edge_steps  # environment steps within which a target node should be reached
        self.patience = patience * self.deadline
        #: what acting has taught about the graph; outlasts an episode
        self.edge_memory = EdgeMemory(graph) if failure_penalty else None
        _, component = connected_components(adjacency(graph.edges, len(graph.latents)), directed=False)
        #: component of each node, (M,). No path joins two components, for instance mazes of different layouts.
        self.node_component = torch.from_numpy(component).long().to(graph.latents.device)

    def start(self, goal: Goal) -> None:
        """Begin B episodes towards their goals."""
        #: component each episode is in, (B,); None before its first latent
        self.episode_component: Tensor | None = None
        self._find_paths(goal)
        self.target_node = self.goal_node
        #: lowest cost to go of each episode so far, (B,), and the step it was reached at, (B,)
        self.lowest_cost = torch.full_like(self.target_node, torch.inf, dtype=torch.float32)
        self.progress_step = torch.zeros_like(self.target_node)
        #: nodes the episodes were nearest to, oldest first: step, (B,)
        self.visited: list[tuple[int, Tensor]] = []

    def update_goal(self, goal: Goal, changed: Tensor) -> None:
        """Continue from where the episodes are towards these goals; `changed`, (B,), says which are new."""
        self._find_paths(goal)
        self.target_node = torch.where(changed, self.goal_node, self.target_node)
        self.lowest_cost = self.lowest_cost.masked_fill(changed, torch.inf)

    def select(self, rows: Tensor, goal: Goal) -> None:
        """Continue with some of the episodes only, whose goals are `goal`."""
        self.goal = goal
        self.episode_component = None if self.episode_component is None else self.episode_component[rows]
        self.goal_column, self.goal_node = self.goal_column[rows], self.goal_node[rows]
        self.target_node = self.target_node[rows]
        self.lowest_cost, self.progress_step = self.lowest_cost[rows], self.progress_step[rows]
        self.visited = [(step, node[rows]) for step, node in self.visited]

    def target(self, latent: Tensor, step: int) -> Target:
        """The node `hops` ahead on the path to the goal, or the goal itself once it is that near.

        Args:
            latent: of the episodes, (B, D).
            step: environment steps they have taken.
        """
        graph = self.graph
        if self.episode_component is None:
            self.episode_component = self.node_component[graph.nearest(latent)]
            if self.goal.latent(self.level) is None:
                self._find_paths(self.goal)
                self.target_node = self.goal_node
        current_node, cut_off = self._current_node(latent)
        if self.edge_memory is not None:
            self._learn(self.edge_memory, current_node, step)
        node = current_node
        for _ in range(self.hops):
            node = self.next_node[node, self.goal_column]
        self.target_node = node
        path = GraphPath(
            current_node, node, self.goal_node, self._cost(current_node), self.goal_column, cut_off, self.next_node
        )
        arrived = node == self.goal_node
        target, goal = graph.latents[node], self.goal.latent(self.level)
        if goal is not None:
            target = torch.where(arrived.unsqueeze(-1), goal, target)

        def cost(rollout: Rollout) -> Tensor:
            distance = distance_to(target, rollout.latents, self.p)
            if goal is not None:
                return distance
            return torch.where(arrived[:, None, None], self.goal.cost(self.level, rollout.latents), distance)

        return Target(cost, target, self.level, self.deadline, path)

    def _current_node(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The node each episode is at, (B, D) -> (B,): the nearest one with a path to the goal, or its target.

        If an agent comes close to its target node but another node stays nearest, it would stay there forever. So a target
        node within half the mean edge length counts as reached. No other node does: across a thin wall, or where the latent
        space folds, a near node may be far away.

        Returns:
            The nodes, and whether a nearer node has no path to the goal, (B,).
        """
        distance = torch.cdist(latent, self.graph.latents)  # (B, M)
        no_path = ~torch.isfinite(self.cost[:, self.goal_column].T)
        cut_off = no_path.gather(1, distance.argmin(1, keepdim=True)).squeeze(1)
        distance = torch.where(no_path, torch.inf, distance)
        nearest, target = distance.argmin(1), self.target_node
        at_target = distance.gather(1, target.unsqueeze(1)).squeeze(1) <= ARRIVAL_RADIUS * self.graph.edge_length
        return torch.where(at_target & (self._cost(target) < self._cost(nearest)), target, nearest), cut_off

    def _find_paths(self, goal: Goal) -> None:
        """Find paths from every node to the node of each goal. If many latents meet a goal, its node is in the episode's component."""
        self.goal = goal
        latents = self.graph.latents.expand(goal.size, -1, -1)  # (B, M, D)
        cost, violation = goal.cost(self.level, latents), goal.violation(self.level, latents)
        if self.episode_component is not None and goal.latent(self.level) is None:
            cost = torch.where(self.node_component == self.episode_component.unsqueeze(1), cost, torch.inf)
        if violation is None:
            # episodes with the same goal node share their paths
            goals, self.goal_column = torch.unique(cost.argmin(1), return_inverse=True)
            closed = None
        else:
            closed = violation > 0  # (B, M)
            goals = torch.where(closed, torch.inf, cost).argmin(1)
            self.goal_column, closed = torch.arange(len(goals), device=goals.device), closed.T
        self.goal_node = goals[self.goal_column]
        graph = self.graph if self.edge_memory is None else self.edge_memory.graph
        self.cost = graph.cost_to_go(goals, closed)
        self.next_node = graph.successors(self.cost)

    def _learn(self, memory: EdgeMemory, current_node: Tensor, step: int) -> None:
        """Record crossed edges and failed paths since the last plans; the episodes are at `current_node`, (B,)."""
        interval = step - self.visited[-1][0] if self.visited else 0  # environment steps between plans
        self.visited = [(past, node) for past, node in self.visited if past >= step - self.graph.edge_steps]
        past = current_node
        if (
            self.visited and step - self.visited[0][0] + interval > self.graph.edge_steps
        ):  # else the episode is too young
            past = self.visited[0][1]
        self.visited.append((step, current_node))
        cost = self._cost(current_node)
        self.progress_step = torch.where(cost < self.lowest_cost, step, self.progress_step)
        self.lowest_cost = torch.minimum(cost, self.lowest_cost)
        late = (step - self.progress_step > self.patience) & (current_node != self.goal_node)
        onward = self.next_node[current_node, self.goal_column]
        # one copy from a GPU instead of waiting for many numbers
        past, node, onward, is_late = torch.stack([past, current_node, onward, late.long()]).cpu()
        # paths are recomputed only after the next failure or goal: an episode that has just crossed an edge needs no other
        memory.mark_crossed(past, node)
        if is_late.any():
            memory.mark_failed(node[is_late > 0], onward[is_late > 0], self.failure_penalty)
            self._find_paths(self.goal)
            changed = self._cost(current_node)
            self.lowest_cost = torch.where(changed == cost, self.lowest_cost, changed)
            self.progress_step = torch.where(late, step, self.progress_step)

    def _cost(self, node: Tensor) -> Tensor:
        """Cost from a node of each episode to its goal, (B,) -> (B,)."""
        return self.cost[node, self.goal_column]
