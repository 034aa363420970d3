"""Which landmark to make for next, on each episode's way to its goal."""

from __future__ import annotations

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch_geometric.utils import to_scipy_sparse_matrix

from hiwm.planning.experience import Experience
from hiwm.planning.goals import Aim, Goal, squared_distance
from hiwm.planning.landmarks import LandmarkGraph
from hiwm.planning.reasons import Route

ARRIVED = 0.5  # of a mean edge: a landmark this near counts as reached


class Wayfinder:
    """Follows a landmark graph to the goals of a batch of episodes, and learns which of its ways do not lead on.

    Args:
        graph: landmarks of one level.
        level: which.
        hops: how many landmarks ahead is aimed at.
        feedback, patience: see `PlannerConfig`.
    """

    def __init__(self, graph: LandmarkGraph, level: int, hops: int, feedback: float, patience: float) -> None:
        self.landmarks = graph
        self.level = level
        self.hops = hops
        self.feedback = feedback
        self.due = hops * graph.edge_steps  # environment steps until a landmark aimed at should be reached
        self.patience = patience * self.due
        #: what acting has taught about the graph; outlasts an episode
        self.experience = Experience(graph) if feedback else None
        joined = to_scipy_sparse_matrix(graph.edges, num_nodes=len(graph.latents))
        #: which of the worlds without any way between them, mazes of different layouts for instance, each landmark is in, (M,)
        self.worlds = torch.from_numpy(connected_components(joined, directed=False)[1]).long().to(graph.latents.device)

    def start(self, goal: Goal) -> None:
        """Begin B episodes towards their goals."""
        self.world: Tensor | None = None  # of each episode, (B,); seen in its first latent
        self._find_ways(goal)
        self.aim = self.goal_landmark
        self.least = torch.full_like(self.aim, torch.inf, dtype=torch.float32)  # cost to go of each episode so far,
        self.since = torch.zeros_like(self.aim)  # the step it was reached at,
        self.past: list[tuple[int, Tensor]] = []  # and landmarks it was nearest to: (step, (B,)), oldest first

    def renew(self, goal: Goal, changed: Tensor) -> None:
        """Go on, from where the episodes are, towards goals of which some have changed, (B,)."""
        self._find_ways(goal)
        self.aim = torch.where(changed, self.goal_landmark, self.aim)
        self.least = self.least.masked_fill(changed, torch.inf)

    def keep(self, rows: Tensor, goal: Goal) -> None:
        """Go on with some of the episodes only; theirs is the goal."""
        self.goal = goal
        self.world = None if self.world is None else self.world[rows]
        self.goal_column, self.goal_landmark = self.goal_column[rows], self.goal_landmark[rows]
        self.aim, self.least, self.since = self.aim[rows], self.least[rows], self.since[rows]
        self.past = [(step, landmark[rows]) for step, landmark in self.past]

    def next(self, latent: Tensor, step: int) -> Aim:
        """The landmark `hops` ahead on the way from latents (B, D), or the goal itself once it is that near.

        Args:
            latent: where the episodes are.
            step: environment steps they have taken.
        """
        graph = self.landmarks
        if self.world is None:
            self.world = self.worlds[graph.nearest(latent)]
            if self.goal.latent(self.level) is None:
                self._find_ways(self.goal)
                self.aim = self.goal_landmark
        distance = torch.cdist(latent, graph.latents)  # (B, M)
        cost = self.cost[:, self.goal_column].T
        distance = torch.where(torch.isfinite(cost), distance, torch.inf)
        landmark = distance.argmin(1)
        # An agent that comes close to its target, but not so close that it is the nearest landmark, would stay there for
        # ever; so a target within half an edge counts as reached. No other landmark does: across a thin wall, or where
        # the latent space folds, one that is near is not always soon reached.
        at_aim = distance.gather(1, self.aim.unsqueeze(1)).squeeze(1) <= ARRIVED * graph.edge_length
        landmark = torch.where(at_aim & (self._cost(self.aim) < self._cost(landmark)), self.aim, landmark)
        if self.experience is not None:
            self._learn(self.experience, landmark, step)
        here = landmark
        for _ in range(self.hops):
            landmark = self.next_landmark[landmark, self.goal_column]
        self.aim = landmark
        #: of the last aim
        self.route = Route(here, landmark, self.goal_landmark, self._cost(here), self.goal_column, self.next_landmark)
        arrived = landmark == self.goal_landmark
        target, goal = graph.latents[landmark], self.goal.latent(self.level)
        if goal is not None:
            target = torch.where(arrived.unsqueeze(-1), goal, target)

        def energy(latent: Tensor) -> Tensor:
            away = squared_distance(latent, target)
            if goal is not None:
                return away
            return torch.where(arrived[:, None, None], self.goal.energy(self.level, latent), away)

        return Aim(target, self.level, energy)

    def _find_ways(self, goal: Goal) -> None:
        """From every landmark to each goal's landmark, in the episode's world where the goal can be met in several."""
        self.goal = goal
        landmarks = self.landmarks.latents.expand(goal.size, -1, -1)  # (B, M, D)
        energy, forbidden = goal.energy(self.level, landmarks), goal.violation(self.level, landmarks)
        if self.world is not None and goal.latent(self.level) is None:
            energy = torch.where(self.worlds == self.world.unsqueeze(1), energy, torch.inf)
        if forbidden is None:
            # episodes with one goal share their ways
            landmark, self.goal_column = torch.unique(energy.argmin(1), return_inverse=True)
            closed = None
        else:
            closed = forbidden > 0  # (B, M)
            landmark = torch.where(closed, torch.inf, energy).argmin(1)
            self.goal_column, closed = torch.arange(len(landmark), device=landmark.device), closed.T
        self.goal_landmark = landmark[self.goal_column]
        graph = self.landmarks if self.experience is None else self.experience.graph
        self.cost = graph.cost_to_go(landmark, closed)
        self.next_landmark = graph.successors(self.cost)

    def _learn(self, experience: Experience, here: Tensor, step: int) -> None:
        """Tell what happened since the last plans to who remembers it; `here` are the landmarks the episodes are at, (B,)."""
        edge_steps = self.landmarks.edge_steps
        self.past = [(past, landmark) for past, landmark in self.past if past >= step - edge_steps]
        if self.past and self.past[0][0] == step - edge_steps:
            # counts from the next failure or goal on: who has just gone a way needs no other one
            experience.crossed(self.past[0][1], here)
        self.past.append((step, here))
        cost = self._cost(here)
        self.since = torch.where(cost < self.least, step, self.since)
        self.least = torch.minimum(cost, self.least)
        late = (step - self.since > self.patience) & (here != self.goal_landmark)
        if late.any():
            onward = self.next_landmark[here, self.goal_column]
            experience.failed(here[late], onward[late], self.feedback)
            self._find_ways(self.goal)
            self.least = self._cost(here)  # in the new costs
            self.since = torch.where(late, step, self.since)

    def _cost(self, landmark: Tensor) -> Tensor:
        """Cost from each episode's landmark to its goal, (B,) -> (B,)."""
        return self.cost[landmark, self.goal_column]
