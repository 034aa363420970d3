"""Batch normalisation with the statistics of the global batch, over any number of processes and on any device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiwm.levels.distributed import average_over_processes


class BatchNorm(nn.Module):
    """y = (x - mean) / sqrt(var + eps) * weight + bias over rows (N, D) (Ioffe & Szegedy 2015).

    torch's own SyncBatchNorm needs a GPU; this one is exact under data parallelism on any device, value and gradient.

    Args:
        dim: size D.
        momentum: share of a batch in the running statistics, which are used in eval mode.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, rows: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        if self.training:
            # two messages, because the mean of squares minus the square of the mean loses precision
            mean = average_over_processes(rows.mean(0))
            var = average_over_processes((rows - mean).square().mean(0))
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var, self.momentum)
        else:
            mean, var = self.running_mean, self.running_var
        return (rows - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias
