"""A small transformer over the chunk; the output of a CLS token is the macro-action."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiwm.levels.parts import ActionEncoder


class TransformerActionEncoder(ActionEncoder):
    """m = W transformer([CLS + U z, a_1, ..., a_stride])_CLS.

    Args:
        dim_latent: size of the latent.
        dim_below: size of one action of the level below.
        stride: actions in a chunk.
        dim: size of the macro-action.
        width: size of a token.
        depth: layers.
        heads: attention heads.
    """

    def __init__(
        self,
        *,
        dim_latent: int,
        dim_below: int,
        stride: int,
        dim: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.state = nn.Linear(dim_latent, width)  # its bias is the CLS token
        self.action = nn.Linear(dim_below, width)
        self.position = nn.Parameter(0.02 * torch.randn(stride + 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.read = nn.Linear(width, dim)
        self.dim = dim

    def forward(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(..., D), (..., stride, A_below) -> (..., A)."""
        tokens = torch.cat([self.state(latent).unsqueeze(-2), self.action(actions)], -2) + self.position
        read = self.transformer(tokens.reshape(-1, *tokens.shape[-2:]))[:, 0]
        return self.read(read).reshape(*latent.shape[:-1], self.dim)
