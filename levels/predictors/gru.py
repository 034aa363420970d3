"""A recurrent predictor: what happened since the first latent is remembered."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiwm.levels.parts import Predictor


class GRUPredictor(Predictor):
    """h_0 = tanh(U z_0);  h' = GRU([z, m], h);  z' = z + scale * W h' (Cho et al. 2014, arXiv 1406.1078).

    Args:
        dim_latent: size D of the latent.
        dim_action: size A of the action.
        width: size of the memory h.
    """

    def __init__(self, *, dim_latent: int, dim_action: int, width: int = 256) -> None:
        super().__init__(dim_latent)
        self.begin = nn.Linear(dim_latent, width)
        self.cell = nn.GRUCell(dim_latent + dim_action, width)
        self.read = nn.Linear(width, dim_latent)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> (..., D)."""
        flat = latent.reshape(-1, latent.shape[-1])
        return self.rollout(flat, action.reshape(len(flat), 1, -1)).reshape(latent.shape)

    def rollout(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(B, D), (B, H, A) -> (B, H, D)."""
        memory = torch.tanh(self.begin(latent))
        latents = []
        for action in actions.unbind(1):
            memory = self.cell(torch.cat([latent, action], -1), memory)
            latent = latent + self.scale * self.read(memory)
            latents.append(latent)
        return torch.stack(latents, 1)
