"""Inverse model: the action of the level below that leads to a latent of this level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiwm.levels.networks import mlp

RELATED = 64  # features that message passing adds to an object


class InverseModel(nn.Module):
    """a = MLP([source, target, steps / reach]): the mean first action of the paths in the data between two latents.

    A source made of objects goes through message passing: a = MLP([source, network(objects), target, steps / reach]).

    Args:
        dim_source: size of the latent in which the action is taken.
        dim_target: size of the latent to reach.
        dim_action: size of one action of the level below.
        reach: largest number of steps of the level below in training; larger numbers count as `reach`.
        width: units of a hidden layer.
        depth: hidden layers.
        entities: number of objects the source is made of; None for a source that is not made of objects.
    """

    def __init__(
        self,
        *,
        dim_source: int,
        dim_target: int,
        dim_action: int,
        reach: int,
        width: int = 128,
        depth: int = 3,
        entities: int | None = None,
    ) -> None:
        super().__init__()
        if reach < 1:
            raise ValueError(f"inverse.reach is {reach}; expected at least 1 step of the level below")
        self.relations = None
        if entities is not None:
            if dim_source % entities:
                raise ValueError(
                    f"inverse.entities is {entities}; expected a divisor of the size of the source, {dim_source}"
                )
            self.shape = (entities, dim_source // entities)
            from hiwm.levels.entities import EntityNetwork  # imports torch_geometric, which takes seconds

            self.relations = EntityNetwork(*self.shape, RELATED, RELATED, 2)
            dim_source += entities * RELATED
        self.net = mlp(dim_source + dim_target + 1, width, depth, dim_action)
        self.reach = reach

    def forward(self, source: Tensor, target: Tensor, steps_left: Tensor) -> Tensor:
        """(..., D_source), (..., D_target), (...) -> (..., A_below)."""
        if self.relations is not None:
            source = torch.cat([source, self.relations(source.unflatten(-1, self.shape)).flatten(-2)], -1)
        share = (steps_left.clamp(1, self.reach) / self.reach).unsqueeze(-1)
        return self.net(torch.cat([source, target, share], -1))
