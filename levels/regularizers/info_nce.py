"""InfoNCE: a prediction must be nearer to its own target than to those of other windows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hiwm.levels.distributed import gather_over_processes
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer


class InfoNCE(Regularizer):
    """Cross-entropy of finding each predicted latent's own target among all targets of that time step in the batch.

    CPC (van den Oord et al. 2018, arXiv 1807.03748), equation 4, with the negative squared distance as the score. It is
    divided by D, so that a temperature means the same at any size of the latent.

    Args:
        temperature: divides the scores.
    """

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        targets, first = gather_over_processes(output.target)  # (N, T, D)
        predicted = output.predicted.transpose(0, 1)  # (T, B, D)
        square = (predicted.unsqueeze(2) - targets.transpose(0, 1).unsqueeze(1)).square().sum(-1)  # (T, B, N)
        own = torch.arange(first, first + predicted.shape[1], device=square.device)
        scores = -square / (self.temperature * output.target.shape[-1])
        return F.cross_entropy(scores.flatten(0, 1), own.repeat(len(scores)))
