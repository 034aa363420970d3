"""A multilayer perceptron that compresses a chunk of actions to a macro-action, given the latent that the chunk starts from."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.networks import mlp
from hiwm.levels.parts import ActionEncoder


class MLPActionEncoder(ActionEncoder):
    """m = MLP([z, a_1, ..., a_stride]), or MLP([a_1, ..., a_stride]).

    If it is conditional, m needs to encode only what z does not determine. With SIGReg on m and on [z, m] it is close to N(0, I)
    in every state, so that N(0, I) is the right proposal for a planner.

    Args:
        dim_latent: size of the latent.
        dim_below: size of one action of the level below.
        stride: actions in a chunk.
        dim: size of the macro-action.
        conditional: whether the latent is an input.
        width: units of a hidden layer.
        depth: hidden layers.
    """

    def __init__(
        self,
        *,
        dim_latent: int,
        dim_below: int,
        stride: int,
        dim: int,
        conditional: bool = True,
        width: int = 128,
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.conditional = conditional
        self.net = mlp(conditional * dim_latent + stride * dim_below, width, depth, dim)
        self.dim = dim

    def forward(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(..., D), (..., stride, A_below) -> (..., A)."""
        chunk = actions.flatten(-2)
        return self.net(torch.cat([latent, chunk], -1) if self.conditional else chunk)
