"""The multilayer perceptron that all parts of a level use."""

from __future__ import annotations

from torch import nn


def mlp(dim_in: int, width: int, depth: int, dim_out: int) -> nn.Sequential:
    """`depth` hidden layers of Linear, LayerNorm, GELU, then a Linear: (..., dim_in) -> (..., dim_out)."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(dim_in if i == 0 else width, width), nn.LayerNorm(width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(width if depth else dim_in, dim_out))
