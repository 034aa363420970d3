"""A graph network over the objects of a latent."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.entities import EntityNetwork
from hiwm.levels.parts import Predictor


class GraphPredictor(Predictor):
    """z_i' = z_i + scale_i * network([z_1, m], ..., [z_N, m])_i: every object receives the action and messages of the others.

    Args:
        dim_latent: size D = N * d of the latent, object after object, as in the output of `GraphEncoder`.
        dim_action: size A of the action.
        entities: number N of objects.
        width: size of an object's hidden features.
        depth: layers of message passing.
    """

    def __init__(self, *, dim_latent: int, dim_action: int, entities: int, width: int = 64, depth: int = 2) -> None:
        super().__init__(dim_latent)
        if dim_latent % entities:
            raise ValueError(
                f"GraphPredictor: entities is {entities}; expected a divisor of the size of the latent, {dim_latent}"
            )
        self.shape = (entities, dim_latent // entities)
        self.network = EntityNetwork(entities, self.shape[1] + dim_action, self.shape[1], width, depth)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> (..., D)."""
        objects = latent.unflatten(-1, self.shape)
        actions = action.unsqueeze(-2).expand(*objects.shape[:-1], -1)
        return latent + self.scale * self.network(torch.cat([objects, actions], -1)).flatten(-2)
