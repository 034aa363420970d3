"""Target encoder: a slow copy of the encoder, whose latents are the targets of the predictions."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class EMATarget(nn.Module):
    """Exponential moving average of the encoder, without gradient (BYOL, arXiv 2006.07733; I-JEPA, arXiv 2301.08243).

    Args:
        encoder: the module to copy.
        momentum: share of its weights that the copy keeps at every optimiser step.
    """

    def __init__(self, *, encoder: nn.Module, momentum: float = 0.99) -> None:
        super().__init__()
        self.copy = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum = momentum

    @torch.no_grad()
    def forward(self, inputs: Mapping[str, Tensor] | Tensor) -> Tensor:
        """Inputs of the encoder -> the latents of the copy."""
        return self.copy(inputs)

    @torch.no_grad()
    def follow(self, encoder: nn.Module) -> None:
        """Move towards the encoder, after an optimiser step."""
        for mine, theirs in zip(self.copy.parameters(), encoder.parameters(), strict=True):
            mine.lerp_(theirs, 1 - self.momentum)

    def restart(self, encoder: nn.Module) -> None:
        """Become a copy of the encoder again."""
        self.copy.load_state_dict(encoder.state_dict())
