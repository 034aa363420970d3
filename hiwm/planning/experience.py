"""What an agent finds out about a landmark graph while it acts: the memory that outlasts an episode.

A graph says what was possible when the data were collected. A way that leads nowhere today, for a door is closed, costs more
from then on; when ways are next looked for, one that turned out to lead on costs what it did, and one that was never seen in
the data is there.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch_geometric.data import Data

from hiwm.planning.landmarks import LandmarkGraph
from hiwm.tensors import load_tensors

BESIDE = 2.0  # mean edges between the ends of ways that run beside one another


class Experience:
    """Costs that are added to a graph's edges, and edges that were found.

    Args:
        graph: as the data have it; stays as it is.
    """

    def __init__(self, graph: LandmarkGraph) -> None:
        if graph.outcomes is not None:
            raise ValueError("planner.feedback needs a graph of landmarks.outcomes best; it has expected ones")
        self.known = graph
        self.forget()

    def forget(self) -> None:
        """Back to the graph as the data have it."""
        self.edges = self.known.edges
        self.weights = self.known.weights
        self.added = torch.zeros_like(self.weights)

    @property
    def graph(self) -> LandmarkGraph:
        """The graph as experience has it."""
        data = Data(x=self.known.latents, edge_index=self.edges, edge_attr=self.weights + self.added)
        return LandmarkGraph(data, self.known.edge_steps)

    def failed(self, start: Tensor, end: Tensor, cost: float) -> None:
        """Ways from landmarks to others, (N,) and (N,), did not lead on: they cost more, and those that run beside them too.

        Beside: both ends within two mean edges of it; for one blocked way rarely is one edge. Within one, the ways past its
        ends stayed cheap: an agent before a closed door tried them one by one and then blamed ways that were open.
        """
        at, reach = self.known.latents, BESIDE * self.known.edge_length
        near_start = torch.cdist(at[start], at)[:, self.edges[0]] <= reach  # (N, E)
        near_end = torch.cdist(at[end], at)[:, self.edges[1]] <= reach
        self.added = self.added + cost * (near_start & near_end).any(0)

    def crossed(self, start: Tensor, end: Tensor) -> None:
        """Ways that were gone in one edge's time, (N,) and (N,): they cost what they did, new ones what an edge of their length does."""
        ways = torch.unique(torch.stack([start, end])[:, start != end], dim=1)
        number = len(self.known.latents)
        names, mine = ways[0] * number + ways[1], self.edges[0] * number + self.edges[1]
        again = torch.isin(mine, names) & (self.added > 0)
        self.added = torch.where(again, 0.0, self.added)
        new = ways[:, ~torch.isin(names, mine)]
        if new.shape[1]:
            length = (self.known.latents[new[0]] - self.known.latents[new[1]]).norm(dim=1) / self.known.edge_length
            self.edges = torch.cat([self.edges, new], 1)
            self.weights = torch.cat([self.weights, 1 + (self.known.weights.mean() - 1) * length])
            self.added = torch.cat([self.added, torch.zeros_like(length)])

    def save(self, path: Path) -> None:
        """One safetensors file."""
        save_file({"edges": self.edges.contiguous(), "weights": self.weights, "added": self.added}, path)

    def load(self, path: Path) -> None:
        """Take over what `save` wrote of the same graph."""
        told = load_tensors(path, device=str(self.weights.device))
        number = self.known.edges.shape[1]
        if len(told["weights"]) < number or not torch.equal(told["edges"][:, :number], self.known.edges):
            raise ValueError(f"{path} is the experience of another landmark graph; remove it or train with its config")
        self.edges, self.weights, self.added = told["edges"], told["weights"], told["added"]
