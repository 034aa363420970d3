"""VICReg: every latent dimension varies, and no two vary together."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.distributed import average_over_processes
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer


class VICReg(Regularizer):
    """The variance and covariance terms of VICReg (Bardes et al. 2022, arXiv 2105.04906, equations 1, 3 and 4).

        mean over dimensions j of max(0, 1 - sqrt(Var(z_j) + eps))
        + covariance * 1/D * sum over i != j of Cov(z_i, z_j)^2

    Variances are over all rows of the batch, windows and time together, and divided by their number N. The invariance
    term is the level's prediction loss. PLDM (arXiv 2502.14819) adds `TemporalSimilarity` and `InverseDynamics`.

    Args:
        covariance: weight of the covariance term.
        eps: added to the variance, so that the root has a gradient at zero.
    """

    def __init__(self, *, covariance: float = 0.04, eps: float = 1e-4) -> None:
        super().__init__()
        self.covariance = covariance
        self.eps = eps

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        rows = output.rows("latent")
        rows = rows - average_over_processes(rows.mean(0))
        moments = average_over_processes(rows.T @ rows / len(rows))  # (D, D)
        variance = moments.diagonal()
        hinge = torch.relu(1 - torch.sqrt(variance + self.eps)).mean()
        return hinge + self.covariance * (moments.square().sum() - variance.square().sum()) / len(variance)
