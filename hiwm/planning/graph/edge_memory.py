"""What an agent learns about the edges of a landmark graph while it acts; it outlasts an episode.

A graph shows what was possible when the data were collected. After a path fails, for instance because a door is closed, its
first edge and the neighbours of that edge cost more. After an episode crosses an edge, the edge has its original cost again; an
edge that the data did not have is added. Changes take effect the next time that paths are computed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.tensors import load_tensors, save_tensors

NEIGHBOURHOOD = 2.0  # largest distance between the ends of a failed edge and those of a neighbour, in mean edge lengths


class EdgeMemory:
    """Costs that are added to the edges of a graph, and edges that were discovered; kept on the CPU.

    Args:
        graph: the graph built from the data; it is not changed.

    Raises:
        ValueError: the transitions of the graph are stochastic, where a failed path may be bad luck.
    """

    def __init__(self, graph: LandmarkGraph) -> None:
        if graph.stochastic is not None:
            raise ValueError(
                "graph.transitions is 'stochastic'; expected deterministic with planner.failure_penalty above 0, because with "
                "stochastic transitions a failed path may be bad luck"
            )
        self.original = graph
        self.latents, self.edge_length = graph.latents.cpu(), graph.edge_length.cpu()
        self.reset()

    def reset(self) -> None:
        """Return to the graph built from the data."""
        self.edges = self.original.edges.cpu()
        self.weights = self.original.weights.cpu()
        self.num_known = len(self.weights)
        #: cost added to each edge, (E,)
        self.added = torch.zeros_like(self.weights)

    @property
    def graph(self) -> LandmarkGraph:
        """The graph with the added costs and edges."""
        from torch_geometric.data import Data  # takes seconds to import

        device = self.original.latents.device
        edges, costs = self.edges.to(device), (self.weights + self.added).to(device)
        data = Data(x=self.original.latents, edge_index=edges, edge_attr=costs)
        return LandmarkGraph(data, self.original.edge_steps)

    def mark_failed(self, start: Tensor, end: Tensor, cost: float) -> None:
        """Add a cost to edges that failed, and to their neighbours.

        Several edges usually lead through a blocked passage. An edge is a neighbour if both of its ends lie within two mean
        edge lengths of those of the failed edge. With one length, the edges just past the ends stayed cheap: an agent before
        a closed door tried them one by one, and then added costs to open edges.

        Args:
            start: node at the start of each edge, (N,), on the CPU.
            end: node at the end of each edge, likewise.
            cost: cost to add, in edges.
        """
        at, reach = self.latents, NEIGHBOURHOOD * self.edge_length
        near_start = torch.cdist(at[start], at)[:, self.edges[0]] <= reach  # (N, E)
        near_end = torch.cdist(at[end], at)[:, self.edges[1]] <= reach
        self.added = self.added + cost * (near_start & near_end).any(0)

    def mark_crossed(self, start: Tensor, end: Tensor) -> None:
        """Remove the added cost of edges that were crossed in the time of one edge, and add edges that are new.

        A new edge costs as much as an edge of its length.

        Args:
            start: node at the start of each edge, (N,), on the CPU.
            end: node at the end of each edge, likewise.
        """
        crossed = torch.unique(torch.stack([start, end])[:, start != end], dim=1)
        num_nodes = len(self.latents)
        names, known = crossed[0] * num_nodes + crossed[1], self.edges[0] * num_nodes + self.edges[1]
        cleared = torch.isin(known, names) & (self.added > 0)
        self.added = torch.where(cleared, 0.0, self.added)
        new = crossed[:, ~torch.isin(names, known)]
        if new.shape[1]:
            length = (self.latents[new[0]] - self.latents[new[1]]).norm(dim=1) / self.edge_length
            self.edges = torch.cat([self.edges, new], 1)
            self.weights = torch.cat([self.weights, 1 + (self.weights[: self.num_known].mean() - 1) * length])
            self.added = torch.cat([self.added, torch.zeros_like(length)])

    def save(self, path: Path) -> None:
        """One safetensors file."""
        save_tensors(path, {"edges": self.edges, "weights": self.weights, "added": self.added})

    def load(self, path: Path) -> None:
        """Read what `save` wrote; raises a ValueError for a file that belongs to another graph."""
        saved = load_tensors(path)
        number = self.original.edges.shape[1]
        if missing := {"edges", "weights", "added"} - set(saved):
            raise ValueError(f"{path}: the tensor {min(missing)!r} is missing; remove the file")
        if len(saved["weights"]) < number or not torch.equal(saved["edges"][:, :number], self.original.edges.cpu()):
            raise ValueError(f"{path} is the edge memory of another landmark graph; remove it or train with its config")
        self.edges, self.weights, self.added = saved["edges"], saved["weights"], saved["added"]
