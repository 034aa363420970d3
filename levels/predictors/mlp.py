"""Residual multilayer perceptron: the latent changes by a learned amount."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.maps import AroundAgent
from hiwm.levels.networks import mlp
from hiwm.levels.parts import Predictor


class ResidualMLPPredictor(Predictor):
    """z' = z + scale * MLP([z, m]).

    Args:
        dim_latent: size D of the latent.
        dim_action: size A of the action.
        width: units of a hidden layer.
        depth: hidden layers.
        frequencies: of the `PositionalEncoding` of latent and action; 0: none.
        encoded: how many leading numbers of the latent are encoded; None: latent and action.
        map_side: cells on a side of the map with which the latent ends (`hiwm.levels.maps`); None: it has no map.
        view: with a map, the network sees it up to so many cells from the agent; more than a step can reach.
    """

    def __init__(
        self,
        *,
        dim_latent: int,
        dim_action: int,
        width: int = 128,
        depth: int = 3,
        frequencies: int = 0,
        encoded: int | None = None,
        map_side: int | None = None,
        view: int = 2,
    ) -> None:
        super().__init__(dim_latent)
        around = None if map_side is None else AroundAgent(dim_latent, map_side, view, dim_action)
        self.net = mlp(dim_latent + dim_action, width, depth, dim_latent, frequencies, encoded, around)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> (..., D)."""
        return latent + self.scale * self.net(torch.cat([latent, action], -1))
