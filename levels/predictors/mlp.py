"""Residual multilayer perceptron: the latent changes by a learned amount."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.networks import mlp
from hiwm.levels.parts import Predictor


class ResidualMLPPredictor(Predictor):
    """z' = z + scale * MLP([z, m]).

    Args:
        dim_latent: size D of the latent.
        dim_action: size A of the action.
        width: units a hidden layer.
        depth: hidden layers.
    """

    scale: Tensor

    def __init__(self, *, dim_latent: int, dim_action: int, width: int = 256, depth: int = 3) -> None:
        super().__init__()
        self.net = mlp(dim_latent + dim_action, width, depth, dim_latent)
        self.register_buffer("scale", torch.ones(dim_latent))

    def fit(self, change: Tensor) -> None:
        """Take the typical change of the latent in one step, (D,), so that the network puts out numbers near 1."""
        self.scale.copy_(change.clamp_min(1e-6))

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> (..., D)."""
        return latent + self.scale * self.net(torch.cat([latent, action], -1))
