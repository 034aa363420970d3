"""A recurrent predictor, whose memory covers all steps since the first latent."""

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
        context: number of observed latents at the start of a rollout.
    """

    def __init__(self, *, dim_latent: int, dim_action: int, width: int = 256, context: int = 3) -> None:
        super().__init__(dim_latent)
        self.context = context
        self.begin = nn.Linear(dim_latent, width)
        # the gates of nn.GRUCell, which has no batching rule for the members of an ensemble
        self.input = nn.Linear(dim_latent + dim_action, 3 * width)
        self.hidden = nn.Linear(width, 3 * width)
        self.read = nn.Linear(width, dim_latent)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> (..., D)."""
        flat = latent.reshape(-1, latent.shape[-1])
        return self.step(self.start(flat), action.reshape(len(flat), -1))[0].reshape(latent.shape)

    def start(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) -> the latent and the memory, (B, width)."""
        return latent, torch.tanh(self.begin(latent))

    def step(self, state: tuple[Tensor, Tensor], action: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        latent, memory = state
        reset, update, new = self.input(torch.cat([latent, action], -1)).chunk(3, -1)
        reset_, update_, new_ = self.hidden(memory).chunk(3, -1)
        candidate = torch.tanh(new + torch.sigmoid(reset + reset_) * new_)
        memory = torch.lerp(candidate, memory, torch.sigmoid(update + update_))
        latent = latent + self.scale * self.read(memory)
        return latent, (latent, memory)

    def correct(self, state: tuple[Tensor, Tensor], latent: Tensor) -> tuple[Tensor, Tensor]:
        return latent, state[1]
