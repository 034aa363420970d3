"""Statistics of the global batch, over any number of processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce (sum) in the forward and the backward pass.

    Every process computes the same loss from the sum, so the gradient is the sum over processes. DDP then averages the
    gradients of the parameters, which gives exactly the gradient of one process with the whole batch.
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
    """All-gather in the forward pass; the backward pass sums the gradients of the process's own rows over processes."""

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
    """Index in the global batch of the first of this process's `share` rows."""
    return dist.get_rank() * share if _is_distributed() else 0


def uniform_rows(share: int, columns: int, generator: torch.Generator) -> Tensor:
    """Uniform draws for this process's rows of the global batch, (share, columns), on the generator's device.

    The generator is in the same state in every process.
    """
    rows = share * dist.get_world_size() if _is_distributed() else share
    return torch.rand(rows, columns, generator=generator, device=generator.device)[first_row(share) :][:share]


def random_rows(rows: Tensor, columns: int, generator: torch.Generator) -> Tensor:
    """For each of this process's rows (N, ...), indices of random rows of the global batch, (N, columns)."""
    total = len(rows) * (dist.get_world_size() if _is_distributed() else 1)
    return (uniform_rows(len(rows), columns, generator) * total).long().to(rows.device)


def average_over_processes(mean: Tensor) -> Tensor:
    """The mean over the global batch, from each process's mean over its equally large share of it."""
    return _SumOverProcesses.apply(mean) / dist.get_world_size() if _is_distributed() else mean


def gather_over_processes(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, (N, ...) -> (N * processes, ...), and the index of this process's first row.

    Use the rows in a loss that is a mean over the process's own share, because DDP averages those losses.
    """
    return (_GatherOverProcesses.apply(rows) if _is_distributed() else rows), first_row(len(rows))
