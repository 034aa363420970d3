"""Temporal straightening: trajectories in the latent space should be straight."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer


class TemporalStraightening(Regularizer):
    """Mean of 1 - cos(z_t+1 - z_t, z_t+2 - z_t+1), after Hénaff et al. (2019), "Perceptual straightening".

    Along a straight path, latent distance grows with time.
    """

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        step = output.latent[:, 1:] - output.latent[:, :-1]  # (B, T, D)
        return (1 - F.cosine_similarity(step[:, 1:], step[:, :-1], dim=-1)).mean()
