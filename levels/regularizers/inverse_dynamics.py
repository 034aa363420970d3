"""Inverse dynamics: the actions can be predicted from the latents before and after them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hiwm.levels.networks import mlp
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer


class InverseDynamics(Regularizer):
    """Squared error of the actions that an MLP predicts from [z_t, z_t+1]; the MLP is trained with the level.

    From ICM (arXiv 1705.05363); PLDM (arXiv 2502.14819) has it too. The latent then keeps what the agent controls. Unlike the inverse model of the level, this MLP shapes the latent.

    Args:
        dim_latent: size D of the latent.
        dim_chunk: size of the chunk of actions.
        width: units of a hidden layer.
        depth: hidden layers.
    """

    def __init__(self, *, dim_latent: int, dim_chunk: int, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.net = mlp(2 * dim_latent, width, depth, dim_chunk)

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        latent = output.latent
        return F.mse_loss(self.net(torch.cat([latent[:, :-1], latent[:, 1:]], -1)), output.chunk)
