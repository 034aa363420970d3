"""A causal transformer over the last steps, conditioned on the actions by adaptive layer norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiwm.levels.parts import Predictor


class TransformerPredictor(Predictor):
    """z' = z + scale * W transformer(z_t-C+1, ..., z_t | m_t-C+1, ..., m_t)_t.

    Every block's layer norms are shifted, scaled and gated by the action of the token's own step (adaLN-zero: Peebles &
    Xie 2023, arXiv 2212.09748; so does LeWM's predictor, arXiv 2603.19312).

    Args:
        dim_latent: size D of the latent.
        dim_action: size A of the action.
        context: largest number C of latents that a step attends to.
        width: size of a token.
        depth: blocks.
        heads: attention heads.
    """

    def __init__(
        self, *, dim_latent: int, dim_action: int, context: int = 3, width: int = 128, depth: int = 3, heads: int = 4
    ) -> None:
        super().__init__(dim_latent)
        if width % heads:
            raise ValueError(f"TransformerPredictor: width is {width}; expected a multiple of heads, {heads}")
        self.context = context
        self.dim_action = dim_action
        self.embed = nn.Linear(dim_latent, width)
        self.condition = nn.Sequential(nn.Linear(dim_action, width), nn.SiLU())
        self.position = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.read = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim_latent))

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> (..., D)."""
        flat = latent.reshape(-1, latent.shape[-1])
        return self.step(self.start(flat), action.reshape(len(flat), -1))[0].reshape(latent.shape)

    def start(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) -> the latents, (B, 1, D), and no actions yet, (B, 0, A)."""
        return latent.unsqueeze(1), latent.new_zeros(len(latent), 0, self.dim_action)

    def step(self, state: tuple[Tensor, Tensor], action: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As in `Predictor`; the state holds the last latents, (B, C, D), and actions, (B, C - 1, A)."""
        latents, actions = state
        actions = torch.cat([actions, action.unsqueeze(1)], 1)
        tokens = self.embed(latents) + self.position[: latents.shape[1]]
        condition = self.condition(actions)
        for block in self.blocks:
            tokens = block(tokens, condition)
        latent = latents[:, -1] + self.scale * self.read(tokens[:, -1])
        latents = torch.cat([latents, latent.unsqueeze(1)], 1)[:, -self.context :]
        return latent, (latents, actions[:, actions.shape[1] - latents.shape[1] + 1 :])

    def correct(self, state: tuple[Tensor, Tensor], latent: Tensor) -> tuple[Tensor, Tensor]:
        latents, actions = state
        return torch.cat([latents[:, :-1], latent.unsqueeze(1)], 1), actions


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """(B, C, width) twice -> (B, C, width)."""
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition).chunk(6, -1)
        q, k, v = self.qkv((1 + scale) * self.norms[0](tokens) + shift).chunk(3, -1)
        split = [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v)]
        mixed = F.scaled_dot_product_attention(*split, is_causal=True).transpose(1, 2).flatten(2)
        tokens = tokens + gate * self.out(mixed)
        return tokens + gate2 * self.mlp((1 + scale2) * self.norms[1](tokens) + shift2)
