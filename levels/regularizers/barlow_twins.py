"""Barlow Twins: each dimension of the prediction correlates with the same dimension of the target, and with no other."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.distributed import average_over_processes
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer


class BarlowTwins(Regularizer):
    """Zbontar et al. 2021 (arXiv 2103.03230), equation 1; the two views are the predicted and the target latents.

        1/D * (sum over i of (1 - C_ii)^2 + off_diagonal * sum over i != j of C_ij^2),

    where C is the cross-correlation of the two over the batch. The factor 1/D is not in the paper; with it, a weight
    means the same at any size of the latent.

    Args:
        off_diagonal: weight of the redundancy term.
        eps: added to variances.
    """

    def __init__(self, *, off_diagonal: float = 0.005, eps: float = 1e-5) -> None:
        super().__init__()
        self.off_diagonal = off_diagonal
        self.eps = eps

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        a, b = (self._standardized(view.flatten(0, 1)) for view in (output.predicted, output.target))
        correlation = average_over_processes(a.T @ b / len(a))
        diagonal = correlation.diagonal()
        redundancy = correlation.square().sum() - diagonal.square().sum()
        return ((1 - diagonal).square().sum() + self.off_diagonal * redundancy) / len(diagonal)

    def _standardized(self, rows: Tensor) -> Tensor:
        rows = rows - average_over_processes(rows.mean(0))
        return rows * torch.rsqrt(average_over_processes(rows.square().mean(0)) + self.eps)
