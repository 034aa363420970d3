"""Temporal similarity: consecutive latents lie near one another."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer


class TemporalSimilarity(Regularizer):
    """Mean of (z_t+1 - z_t)^2 (PLDM, arXiv 2502.14819), which opposes the variance term of VICReg."""

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        return (output.latent[:, 1:] - output.latent[:, :-1]).square().mean()
