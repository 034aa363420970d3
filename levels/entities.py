"""Message passing between all pairs of objects of a scene."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from hiwm.levels.networks import mlp

# Slopes c of the saturating offsets between objects, whose features have a standard deviation near 1. The offset of two
# objects that touch is a hundredth of a typical offset. Saturation makes both equally large, so that a latent keeps
# both.
SHARPNESS = (3.0, 10.0)


class EntityLayer(MessagePassing):
    """h_i' = h_i + MLP([h_i, sum over j != i of MLP([h_i, h_j - h_i, e_ij])]): permutation-equivariant.

    An interaction network (Battaglia et al. 2016, arXiv 1612.00222) on relative features.

    Args:
        width: size of an object's features h_i, and of an edge's e_ij.
    """

    def __init__(self, width: int) -> None:
        super().__init__(aggr="sum", node_dim=-2)
        self.relation = mlp(3 * width, width, 1, width)
        self.update_ = mlp(2 * width, width, 1, width)

    def forward(self, h: Tensor, pairs: Tensor, edges: Tensor) -> Tensor:
        """Objects (..., N, width), source and target of the E edges (2, E), edges (..., E, width) -> (..., N, width)."""
        received = self.propagate(pairs, h=h, edges=edges) if pairs.numel() else torch.zeros_like(h)
        return h + self.update_(torch.cat([h, received], -1))

    def message(self, h_i: Tensor, h_j: Tensor, edges: Tensor) -> Tensor:
        return self.relation(torch.cat([h_i, h_j - h_i, edges], -1))


class EntityNetwork(nn.Module):
    """Message passing between a linear embedding and a linear output of every object, and a linear skip connection.

    The input of an edge is the offset of its two objects, x_j - x_i, and tanh(c (x_j - x_i)) for every c of `SHARPNESS`.

    Args:
        entities: number N of objects.
        dim_in: features of an object.
        dim_out: outputs of an object.
        width: size of an object's hidden features.
        depth: layers.
    """

    pairs: Tensor

    def __init__(self, entities: int, dim_in: int, dim_out: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(dim_in, width), nn.GELU())
        self.offset = nn.Linear((1 + len(SHARPNESS)) * dim_in, width)
        self.layers = nn.ModuleList([EntityLayer(width) for _ in range(depth)])
        self.answer = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim_out))
        self.skip = nn.Linear(dim_in, dim_out, bias=False)
        pairs = torch.cartesian_prod(torch.arange(entities), torch.arange(entities)).T
        self.register_buffer("pairs", pairs[:, pairs[0] != pairs[1]], persistent=False)

    def forward(self, objects: Tensor) -> Tensor:
        """(..., N, dim_in) -> (..., N, dim_out)."""
        source, target = self.pairs
        offsets = objects[..., source, :] - objects[..., target, :]
        edges = self.offset(torch.cat([offsets, *(torch.tanh(sharp * offsets) for sharp in SHARPNESS)], -1))
        h = self.embed(objects)
        for layer in self.layers:
            h = layer(h, self.pairs, edges)
        return self.answer(h) + self.skip(objects)
