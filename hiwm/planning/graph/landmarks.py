"""A graph of landmarks over the latents of a level, for distances beyond the horizon of one search.

Distances in a latent space are only local. The graph measures long ranges: its nodes are landmarks spread over the latents
of the data, and an edge leads from one node to another where the data went from the cell of the first to the cell of the
second in `edge_steps` environment steps. The graph follows SoRB (Eysenbach et al. 2019) and L3P (Zhang et al. 2021), with
observed transitions in place of learned distances.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from hiwm.data.store import Trajectories
from hiwm.levels.landmarks import farthest_points, nearest
from hiwm.planning.graph.shortest_paths import path_costs
from hiwm.planning.graph.stochastic import StochasticTransitions, count_transitions
from hiwm.settings import Settings
from hiwm.tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from torch_geometric.data import Data

STOCHASTIC = "stochastic/"  # prefix of the tensors of `StochasticTransitions` in a file


class GraphConfig(Settings):
    """Settings of the landmark graphs.

    Args:
        num_nodes: largest number of landmarks M.
        edge_steps: environment steps between the two ends of an edge.
        num_transitions: number of transitions drawn from the data.
        num_candidates: number of latents from which farthest-point sampling chooses the landmarks.
        length_cost: an edge costs 1 + length_cost * its length in the latent space over the mean length. This breaks ties.
        min_count: fewest transitions for an edge to be kept.
        min_component: fewest nodes of a strongly connected component to be kept.
        transitions: deterministic: an edge always leads where it led in the data. stochastic: an action leads to a node as
            often as it did in the data, and costs are expected costs.
        num_clusters: number of clusters of actions, with stochastic transitions.
        min_tries: fewest transitions for an action cluster at a node to be kept, with stochastic transitions.
        lost_cost: cost, in edges, of an outcome off the graph, with stochastic transitions.
    """

    section: ClassVar[str] = "graph"
    num_nodes: int = Field(ge=2)
    edge_steps: int = Field(ge=1)
    num_transitions: int = Field(ge=1)
    num_candidates: int = Field(ge=2)
    length_cost: float = Field(ge=0)
    min_count: int = Field(ge=1)
    min_component: int = Field(ge=1)
    transitions: Literal["deterministic", "stochastic"]
    num_clusters: int = Field(ge=1)
    min_tries: int = Field(ge=1)
    lost_cost: float = Field(ge=1)


class LandmarkGraph:
    """The graph of one level.

    Args:
        data: PyG graph: `x` (M, D) latents, `edge_index` (2, E), `edge_attr` (E,) costs, `count` (E,) transitions, and `row`
            (M,), the dataset row of each landmark.
        edge_steps: environment steps of an edge.
        stochastic: transition probabilities; None for deterministic edges.

    Raises:
        ValueError: an edge cost is NaN or not positive, so that shortest paths would not exist.
    """

    def __init__(self, data: Data, edge_steps: int, stochastic: StochasticTransitions | None = None) -> None:
        self.data = data
        self.stochastic = stochastic
        self.edge_steps = edge_steps
        #: (M, D)
        self.latents: Tensor = data["x"]
        #: (2, E): from, to
        self.edges: Tensor = data["edge_index"]
        #: (E,)
        self.weights: Tensor = data["edge_attr"]
        bad = self.weights[~(self.weights > 0)]
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(self.weights)} edges of the landmark graph have invalid costs, for example {bad[0].item()}; "
                "expected positive numbers. Look for NaN in the latents of the level, or build the graph again"
            )
        #: mean length of an edge in the latent space
        self.edge_length = (self.latents[self.edges[0]] - self.latents[self.edges[1]]).norm(dim=1).mean()

    def nearest(self, latent: Tensor) -> Tensor:
        """Index of the nearest node, (..., D) -> (...)."""
        return nearest(latent.reshape(-1, latent.shape[-1]), self.latents)[1].reshape(latent.shape[:-1])

    def cost_to_go(self, goal: Tensor, closed: Tensor | None = None) -> Tensor:
        """Cost from every node to each goal, inf where there is no path, (M, G).

        Args:
            goal: node of each goal, (G,).
            closed: nodes that no path may enter, whose own cost is inf too, (M, G); None for none.
        """
        if self.stochastic is not None:
            return self.stochastic.cost_to_go(goal, len(self.latents), closed)
        return path_costs(self.edges, self.weights, len(self.latents), goal, closed)

    def successors(self, cost: Tensor) -> Tensor:
        """The node to go to next from every node, (M, G) costs -> (M, G); the node itself at a goal or without a path."""
        if self.stochastic is not None:
            return self.stochastic.successors(cost)
        start, end = self.edges
        through = self.weights.unsqueeze(-1) + cost[end]  # (E, G)
        best = torch.full_like(cost, torch.inf).scatter_reduce(
            0, start.unsqueeze(1).expand_as(through), through, "amin"
        )
        itself = torch.arange(len(cost), device=cost.device).unsqueeze(-1).expand_as(cost)
        ties = torch.where((through == best[start]) & torch.isfinite(through), end.unsqueeze(1), len(cost))
        # the first of equally good ones, on every device
        following = itself.scatter_reduce(0, start.unsqueeze(1).expand_as(ties), ties, "amin", include_self=False)
        return torch.where(torch.isfinite(best) & (cost > 0), following, itself)

    def save(self, path: Path) -> None:
        """One safetensors file."""
        tensors = {name: self.data[name].contiguous() for name in ("x", "edge_index", "edge_attr", "count", "row")}
        if self.stochastic is not None:
            tensors |= {STOCHASTIC + name: torch.as_tensor(value) for name, value in vars(self.stochastic).items()}
        save_tensors(path, tensors | {"edge_steps": torch.tensor(self.edge_steps)})

    @staticmethod
    def load(path: Path, device: str = "cpu") -> LandmarkGraph:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged or holds something else than a graph; the message names it.
        """
        tensors = load_tensors(path, device=device)
        try:
            return LandmarkGraph._from_tensors(tensors)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise ValueError(f"{path} holds no landmark graph ({error}); `hiwm train` writes it again") from error

    @staticmethod
    def _from_tensors(tensors: dict[str, Tensor]) -> LandmarkGraph:
        edge_steps = int(tensors.pop("edge_steps"))
        nodes, (ends, edges) = len(tensors["x"]), tensors["edge_index"].shape
        if (
            ends != 2
            or len(tensors["edge_attr"]) != edges
            or not 0 <= tensors["edge_index"].min() <= tensors["edge_index"].max() < nodes
        ):
            raise ValueError(f"its edges do not lead from one of its {nodes} nodes to another")
        from torch_geometric.data import Data  # takes seconds to import, which commands without a graph need not spend

        found = {name: tensors.pop(name) for name in list(tensors) if name.startswith(STOCHASTIC)}
        stochastic = None
        if found:
            fields = {name.removeprefix(STOCHASTIC): value for name, value in found.items()}
            lost_cost = float(fields.pop("lost_cost"))
            stochastic = StochasticTransitions(**fields, lost_cost=lost_cost)
        return LandmarkGraph(Data(**tensors), edge_steps, stochastic)


def build_graph(latents: Trajectories, actions: np.ndarray, config: GraphConfig, seed: int) -> LandmarkGraph:
    """Build the graph over the cached latents of a level.

    Args:
        latents: cached latents of the level, column `latent`.
        actions: primitive actions, row by row, (N, ...).
        config: graph settings.
        seed: random seed.

    Raises:
        ValueError: an edge takes more steps than an episode has, or no two nodes can reach one another.
    """
    from torch_geometric.data import Data  # as in `load`

    steps = config.edge_steps
    rng = np.random.default_rng(seed)
    column = latents.column("latent")
    longest = int(latents.ep_len.max())
    if longest <= steps:
        raise ValueError(
            f"graph.edge_steps is {steps}; expected less than the length of the longest episode, {longest} rows"
        )
    starts, rows = latents.starts(steps), latents.rows
    candidates = np.sort(rng.choice(rows, min(config.num_candidates, len(rows)), replace=False))
    points = torch.from_numpy(column[candidates])
    chosen = farthest_points(points, config.num_nodes, rng)
    landmarks = points[chosen]
    before = np.sort(rng.choice(starts, min(config.num_transitions, len(starts)), replace=False))
    cells = [nearest(torch.from_numpy(column[rows]), landmarks)[1] for rows in (before, before + steps)]
    edges, count = torch.unique(torch.stack(cells)[:, cells[0] != cells[1]], dim=1, return_counts=True)
    frequent = count >= config.min_count
    edges, count = edges[:, frequent], count[frequent]
    length = (landmarks[edges[0]] - landmarks[edges[1]]).norm(dim=1)
    mean_length = length.mean().clamp_min(1e-9)
    data = Data(
        x=landmarks,
        edge_index=edges,
        edge_attr=1 + config.length_cost * length / mean_length,
        count=count,
        row=torch.from_numpy(candidates)[chosen],
    )
    kept = _strongly_connected(edges, len(landmarks), config.min_component)
    connected = data.subgraph(kept)
    if connected.num_edges == 0:
        raise ValueError(
            f"no two of {config.num_nodes} nodes reach one another by {config.num_transitions} transitions of {steps} steps; "
            "raise graph.num_transitions, or lower graph.num_nodes, graph.min_count or graph.min_component"
        )
    if config.transitions == "deterministic":
        return LandmarkGraph(connected, steps)
    number = torch.full((len(landmarks),), int(kept.sum()))  # nodes that are not kept count as lost
    number[kept] = torch.arange(int(kept.sum()))
    within = kept[cells[0]].numpy()
    moved = (landmarks[cells[0]] - landmarks[cells[1]]).norm(dim=1)
    stochastic = count_transitions(
        number[cells[0]][within], _first_actions(actions, before[within], steps), number[cells[1]][within],
        1 + config.length_cost * moved[within] / mean_length,
        num_clusters=config.num_clusters, min_tries=config.min_tries, lost_cost=config.lost_cost, seed=seed,
    )  # fmt: skip
    return LandmarkGraph(connected, steps, stochastic)


def _first_actions(actions: np.ndarray, rows: np.ndarray, steps: int) -> np.ndarray:
    """Mean action over the first quarter of the steps after each row, because later actions already depend on the outcome."""
    moments = [actions[rows + i].reshape(len(rows), -1) for i in range(max(1, steps // 4))]
    return np.mean(moments, 0)


def _strongly_connected(edges: Tensor, num_nodes: int, min_component: int) -> Tensor:
    """Mask of the nodes in components of at least `min_component` nodes that can all reach one another, (M,).

    A node that the data rarely visited may have no path in or out, and a goal there would seem unreachable. Several components
    can be right, for instance mazes of different layouts.
    """
    _, component = connected_components(adjacency(edges, num_nodes), connection="strong")
    component = torch.from_numpy(component).long()
    return component.bincount()[component] >= min_component


def adjacency(edges: Tensor, num_nodes: int) -> csr_array:
    """Matrix of ones at the edges (2, E), on the CPU, (M, M)."""
    start, end = edges.cpu().numpy()
    return csr_array((np.ones(len(start)), (start, end)), shape=(num_nodes, num_nodes))
