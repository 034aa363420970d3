"""Batch statistics that are those of the whole batch, however many processes share it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class _SumOverProcesses(torch.autograd.Function):
    """all-reduce(sum) forward and backward.

    Every process forms the same loss from the summed value, so its gradient is the sum over processes; DDP then
    averages parameters' gradients, which gives exactly the gradient of one process with the whole batch.
    """

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


def average_over_processes(mean: Tensor) -> Tensor:
    """The mean over the global batch, from each process's mean over its equally large share of it."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return _SumOverProcesses.apply(mean) / dist.get_world_size()
    return mean
