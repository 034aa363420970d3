"""Several processes, as `torchrun` starts them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start_processes(device: str) -> Processes:
    """Join the group when run under `torchrun` (gloo on CPU, NCCL on GPUs); one process otherwise.

    Args:
        device: "cpu", "cuda", or "auto": cuda if it is available.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}; expected auto or cpu, because torch finds no CUDA device")
    if "WORLD_SIZE" not in os.environ:
        return Processes(0, 1, torch.device(kind))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo")
    local = int(os.environ["LOCAL_RANK"])
    if kind.startswith("cuda"):
        torch.cuda.set_device(local)
        kind = f"cuda:{local}"
    return Processes(dist.get_rank(), dist.get_world_size(), torch.device(kind))


def end_process(status: int) -> NoReturn:
    """End a process of a group at once, without the shutdown of Python.

    gloo's threads outlive the group (DistributedDataParallel keeps it) and abort Python when they release
    a tensor during its shutdown (pytorch issue 190489).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def barrier() -> None:
    """Wait for every process, if there are several."""
    if dist.is_initialized():
        dist.barrier()
