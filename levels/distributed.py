"""Batch statistics that are those of the whole batch, however many processes share it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


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


class _GatherOverProcesses(torch.autograd.Function):
    """all-gather forward; backward, the sum over processes of the gradient of one's own rows."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        shares = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, rows.contiguous())
        return torch.cat(shares)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def first_row(share: int) -> int:
    """Number, in the global batch, of the first of one's own `share` rows."""
    return dist.get_rank() * share if _several() else 0


def uniform_rows(share: int, columns: int, generator: torch.Generator) -> Tensor:
    """Uniform draws for one's own rows of the global batch, (share, columns), from a generator in the same state everywhere."""
    rows = share * dist.get_world_size() if _several() else share
    return torch.rand(rows, columns, generator=generator)[first_row(share) :][:share]


def average_over_processes(mean: Tensor) -> Tensor:
    """The mean over the global batch, from each process's mean over its equally large share of it."""
    return _SumOverProcesses.apply(mean) / dist.get_world_size() if _several() else mean


def gather_over_processes(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, (N, ...) -> (N * processes, ...), and the number of the first of one's own.

    The rows are to be used in a loss that is a mean over the process's own share; DDP averages those losses.
    """
    return (_GatherOverProcesses.apply(rows) if _several() else rows), first_row(len(rows))
