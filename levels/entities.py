"""Message passing between the objects of a scene, every one with every other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from hiwm.levels.networks import mlp


class EntityLayer(MessagePassing):
    """h_i' = h_i + MLP([h_i, sum over j != i of MLP([h_i, h_j - h_i])]): permutation-equivariant.

    An interaction network (Battaglia et al. 2016, arXiv 1612.00222) on relative features.

    Args:
        entities: number N of objects.
        width: size of an object's features.
    """

    edges: Tensor

    def __init__(self, entities: int, width: int) -> None:
        super().__init__(aggr="sum", node_dim=-2)
        self.relation = mlp(2 * width, width, 1, width)
        self.update_ = mlp(2 * width, width, 1, width)
        pairs = torch.cartesian_prod(torch.arange(entities), torch.arange(entities)).T
        self.register_buffer("edges", pairs[:, pairs[0] != pairs[1]], persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """(..., N, width) -> (..., N, width)."""
        received = self.propagate(self.edges, h=h) if self.edges.numel() else torch.zeros_like(h)
        return h + self.update_(torch.cat([h, received], -1))

    def message(self, h_i: Tensor, h_j: Tensor) -> Tensor:
        return self.relation(torch.cat([h_i, h_j - h_i], -1))


class EntityNetwork(nn.Module):
    """Layers of message passing between a linear embedding and a linear readout of every object.

    Args:
        entities: number N of objects.
        dim_in: features of an object.
        dim_out: answers for an object.
        width: size of an object's features in between.
        depth: layers.
    """

    def __init__(self, entities: int, dim_in: int, dim_out: int, width: int, depth: int) -> None:
        super().__init__()
        layers = [EntityLayer(entities, width) for _ in range(depth)]
        self.net = nn.Sequential(
            nn.Linear(dim_in, width), nn.GELU(), *layers, nn.LayerNorm(width), nn.Linear(width, dim_out)
        )

    def forward(self, objects: Tensor) -> Tensor:
        """(..., N, dim_in) -> (..., N, dim_out)."""
        return self.net(objects)
