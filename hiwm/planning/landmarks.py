"""A graph of landmarks over a level's latents: how far is it, over all that was ever seen.

Distances in a latent space are only local. Over long ranges the graph measures them instead: landmarks spread over the
latents of the data, an edge where the data went from one landmark's cell to another's in one step of the graph, and
the shortest path to the goal by min-plus message passing (Bellman-Ford). After SoRB (Eysenbach et al. 2019) and L3P
(Zhang et al. 2021), with observed transitions in place of learned distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import add_self_loops, to_scipy_sparse_matrix

from hiwm.checks import at_least
from hiwm.data.store import Trajectories
from hiwm.planning.outcomes import Outcomes, find_outcomes
from hiwm.tensors import load_tensors

OUTCOMES = ("best", "expected")


@dataclass(frozen=True)
class LandmarkConfig:
    """How a graph is built.

    Args:
        landmarks: number of landmarks M.
        edge_steps: environment steps between the two ends of an edge.
        transitions: transitions drawn from the data.
        candidates: latents the landmarks are chosen from, by farthest-point sampling.
        length_cost: an edge costs 1 + length_cost * its length in the latent space over the mean length; breaks ties.
        min_count: transitions an edge needs to be believed.
        min_component: landmarks that can all be reached from one another are kept if they are at least so many.
        outcomes: what a transition costs. best: an edge can be taken wherever the data took it. expected: an action has
            the outcomes it had in the data, and the cost is their expectation, for stochastic worlds.
        clusters: of actions, where outcomes are expected.
        min_tries: transitions an action needs at a landmark, where outcomes are expected.
        lost_cost: cost of a place that no landmark is kept for, where outcomes are expected.
    """

    landmarks: int = 800
    edge_steps: int = 10
    transitions: int = 100_000
    candidates: int = 20_000
    length_cost: float = 0.1
    min_count: int = 1
    min_component: int = 10
    outcomes: str = "best"
    clusters: int = 8
    min_tries: int = 5
    lost_cost: float = 2000.0

    def __post_init__(self) -> None:
        at_least("landmarks.", 2, landmarks=self.landmarks, candidates=self.candidates)
        at_least("landmarks.", 1, edge_steps=self.edge_steps, transitions=self.transitions)
        at_least("landmarks.", 1, min_count=self.min_count, min_component=self.min_component)
        at_least("landmarks.", 1, clusters=self.clusters, min_tries=self.min_tries, lost_cost=self.lost_cost)
        if self.outcomes not in OUTCOMES:
            raise ValueError(f"landmarks.outcomes is {self.outcomes!r}; allowed: {', '.join(OUTCOMES)}")


class MinPlus(MessagePassing):
    """cost_i = min over edges i -> j of (w_ij + cost_j): one step of Bellman-Ford; staying is a self-loop of weight 0."""

    def __init__(self) -> None:
        super().__init__(aggr="min", flow="target_to_source")

    def forward(self, cost: Tensor, edge_index: Tensor, weight: Tensor) -> Tensor:
        """Costs to G goals (M, G), edges (2, E), weights (E,) -> (M, G)."""
        return self.propagate(edge_index, x=cost, weight=weight)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return x_j + weight.unsqueeze(-1)


class LandmarkGraph:
    """Landmarks of one level.

    Args:
        data: PyG graph: `x` (M, D) latents, `edge_index` (2, E), `edge_attr` (E,) costs, `count` (E,) transitions,
            `row` (M,) the dataset row a landmark was taken from.
        edge_steps: environment steps an edge stands for.
        outcomes: what follows an action at a landmark; None where any edge can be taken.
    """

    def __init__(self, data: Data, edge_steps: int, outcomes: Outcomes | None = None) -> None:
        self.data = data
        self.outcomes = outcomes
        self.edge_steps = edge_steps
        #: (M, D)
        self.latents: Tensor = data["x"]
        #: (2, E): from, to
        self.edges: Tensor = data["edge_index"]
        #: (E,)
        self.weights: Tensor = data["edge_attr"]
        #: mean length of an edge in the latent space
        self.edge_length = (self.latents[self.edges[0]] - self.latents[self.edges[1]]).norm(dim=1).mean()

    def nearest(self, latent: Tensor) -> Tensor:
        """Index of the nearest landmark, (..., D) -> (...)."""
        return torch.cdist(latent.reshape(-1, latent.shape[-1]), self.latents).argmin(1).reshape(latent.shape[:-1])

    def cost_to_go(self, goal: Tensor, closed: Tensor | None = None) -> Tensor:
        """Cost from every landmark to each goal's landmark, inf where there is no way, (M, G).

        Args:
            goal: landmark of each goal, (G,).
            closed: landmarks that no way may pass, whose own cost is inf too, (M, G); None for none.
        """
        if self.outcomes is not None:
            return self.outcomes.cost_to_go(goal, len(self.latents), closed)
        cost = torch.full((len(self.latents), len(goal)), torch.inf, device=goal.device)
        cost[goal, torch.arange(len(goal), device=goal.device)] = 0.0
        step = MinPlus()
        edges, weights = add_self_loops(self.edges, self.weights, fill_value=0.0, num_nodes=len(cost))
        while True:
            closer = step(cost, edges, weights)
            closer = closer if closed is None else closer.masked_fill(closed, torch.inf)
            if torch.equal(closer, cost):
                return cost
            cost = closer

    def successors(self, cost: Tensor) -> Tensor:
        """The landmark to go to next from every landmark, (M, G) costs -> (M, G); itself at a goal or a dead end."""
        if self.outcomes is not None:
            return self.outcomes.successors(cost)
        start, end = self.edges
        through = self.weights.unsqueeze(-1) + cost[end]  # (E, G)
        best = torch.full_like(cost, torch.inf).scatter_reduce(
            0, start.unsqueeze(1).expand_as(through), through, "amin"
        )
        itself = torch.arange(len(cost), device=cost.device).unsqueeze(-1).expand_as(cost)
        ties = torch.where((through == best[start]) & torch.isfinite(through), end.unsqueeze(1), len(cost))
        # of equally good ones the first, on every device
        following = itself.scatter_reduce(0, start.unsqueeze(1).expand_as(ties), ties, "amin", include_self=False)
        return torch.where(torch.isfinite(best) & (cost > 0), following, itself)

    def save(self, path: Path) -> None:
        """One safetensors file."""
        tensors = {name: self.data[name].contiguous() for name in ("x", "edge_index", "edge_attr", "count", "row")}
        if self.outcomes is not None:
            tensors |= {f"outcomes/{name}": torch.as_tensor(value) for name, value in vars(self.outcomes).items()}
        save_file(tensors | {"edge_steps": torch.tensor(self.edge_steps)}, path)

    @staticmethod
    def load(path: Path, device: str = "cpu") -> LandmarkGraph:
        """What `save` wrote."""
        tensors = load_tensors(path, device=device)
        edge_steps = int(tensors.pop("edge_steps"))
        found = {name: tensors.pop(name) for name in list(tensors) if name.startswith("outcomes/")}
        told: dict[str, Any] = {name.removeprefix("outcomes/"): value for name, value in found.items()}
        outcomes = Outcomes(**{**told, "lost_cost": float(told["lost_cost"])}) if told else None
        return LandmarkGraph(Data(**tensors), edge_steps, outcomes)


def build_landmarks(latents: Trajectories, actions: np.ndarray, config: LandmarkConfig, seed: int) -> LandmarkGraph:
    """Build the graph over a level's cached latents.

    Args:
        latents: with a column `latent`.
        actions: primitive actions, row by row, (N, ...).
        config: how.
        seed: of the draws.
    """
    steps = config.edge_steps
    rng = np.random.default_rng(seed)
    column = latents.column("latent")
    most = int(latents.ep_len.max())
    if most <= steps:
        raise ValueError(f"landmarks.edge_steps is {steps}; allowed: less than the longest episode, {most} rows")
    starts, rows = latents.starts(steps), latents.rows
    candidates = np.sort(rng.choice(rows, min(config.candidates, len(rows)), replace=False))
    points = torch.from_numpy(column[candidates])
    chosen = farthest_points(points, config.landmarks, rng)
    landmarks = points[chosen]
    before = np.sort(rng.choice(starts, min(config.transitions, len(starts)), replace=False))
    cells = [_nearest(torch.from_numpy(column[rows]), landmarks) for rows in (before, before + steps)]
    edges, count = torch.unique(torch.stack(cells)[:, cells[0] != cells[1]], dim=1, return_counts=True)
    believed = count >= config.min_count
    edges, count = edges[:, believed], count[believed]
    length = (landmarks[edges[0]] - landmarks[edges[1]]).norm(dim=1)
    data = Data(
        x=landmarks,
        edge_index=edges,
        edge_attr=1 + config.length_cost * length / length.mean().clamp_min(1e-9),
        count=count,
        row=torch.from_numpy(candidates)[chosen],
    )
    kept = _both_ways(edges, len(landmarks), config.min_component)
    connected = data.subgraph(kept)
    if connected.num_edges == 0:
        raise ValueError(
            f"no two of {config.landmarks} landmarks are connected both ways by {config.transitions} transitions of {steps} "
            "steps; raise landmarks.transitions, or lower landmarks.landmarks, landmarks.min_count or landmarks.min_component"
        )
    if config.outcomes == "best":
        return LandmarkGraph(connected, steps)
    number = torch.full((len(landmarks),), int(kept.sum()))  # what is not kept counts as lost
    number[kept] = torch.arange(int(kept.sum()))
    here, there = number[cells[0]], number[cells[1]]
    within = kept[cells[0]].numpy()
    moved = (landmarks[cells[0]] - landmarks[cells[1]]).norm(dim=1)
    outcomes = find_outcomes(
        here[within], _first_actions(actions, before[within], steps), there[within],
        1 + config.length_cost * moved[within] / length.mean().clamp_min(1e-9),
        clusters=config.clusters, least=config.min_tries, lost_cost=config.lost_cost, seed=seed,
    )  # fmt: skip
    return LandmarkGraph(connected, steps, outcomes)


def _first_actions(actions: np.ndarray, rows: np.ndarray, steps: int) -> np.ndarray:
    """Mean action of the first quarter of the steps from each row on: later ones already know how it turned out."""
    moments = [actions[rows + i].reshape(len(rows), -1) for i in range(max(1, steps // 4))]
    return np.mean(moments, 0)


def _both_ways(edges: Tensor, number: int, least: int) -> Tensor:
    """Mask of the landmarks in groups of at least `least` that can all be reached from one another, (number,).

    A landmark that is hardly ever passed may have no way in or out: a goal there would seem out of reach. Several
    groups are worlds apart, mazes of different layouts for instance.
    """
    _, group = connected_components(to_scipy_sparse_matrix(edges, num_nodes=number), connection="strong")
    group = torch.from_numpy(group).long()
    return group.bincount()[group] >= least


def farthest_points(points: Tensor, number: int, rng: np.random.Generator) -> Tensor:
    """Greedy farthest-point sampling (Gonzalez 1985): indices of at most `number` of the points (N, D)."""
    chosen = [int(rng.integers(len(points)))]
    distance = (points - points[chosen[0]]).square().sum(1)
    for _ in range(min(number, len(points)) - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)


def _nearest(points: Tensor, landmarks: Tensor) -> Tensor:
    return torch.cat([torch.cdist(block, landmarks).argmin(1) for block in points.split(16_384)])
