"""Several processes, as `torchrun` starts them."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from hiwm.signals import end_with_parent

TIMEOUT = timedelta(minutes=30)  # of an all-reduce of gradients
NO_TIMEOUT = timedelta(days=365)  # of waiting for the main process while it works alone


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """The rows of a global batch that this process computes."""
        size = batch // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)


ALONE = Processes(0, 1, torch.device("cpu"))


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
    place: dict[str, Any] = {}
    if kind.startswith("cuda"):
        kind = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(kind)
        place = {"device_id": torch.device(kind)}
    if not dist.is_initialized():
        end_with_parent()  # a torchrun that is killed takes no process with it
        dist.init_process_group("nccl" if place else "gloo", timeout=TIMEOUT, **place)
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
    """Wait for every process, if there are several, for as long as they live."""
    if dist.is_initialized():
        dist.barrier(group=_waiting_group())


def from_main(answer: bool) -> bool:
    """The main process's answer, in every process; the others wait for it as in `barrier`."""
    if not dist.is_initialized():
        return answer
    message = torch.tensor(answer, dtype=torch.uint8)
    dist.broadcast(message, 0, group=_waiting_group())
    return bool(message)


def to_main(block: Sequence[Tensor], owner: int, rows: int, processes: Processes) -> Sequence[Tensor]:
    """Bring a process's tensors on the CPU to the main process; waits as `barrier` does.

    Args:
        block: in the owner, what it hands over; in the main process, tensors with rows of the same shapes and types.
        owner: rank of the process that has the tensors.
        rows: number of rows of the owner's tensors.
        processes: this process and the others.

    Returns:
        In the main process, the owner's tensors; in the others, the block.
    """
    if owner == 0:
        return block
    if processes.rank == owner:
        for value in block:
            dist.send(value.contiguous(), 0, group=_waiting_group())
    elif processes.is_main:
        block = [torch.empty(rows, *value.shape[1:], dtype=value.dtype) for value in block]
        for value in block:
            dist.recv(value, owner, group=_waiting_group())
    return block


@cache
def _waiting_group() -> Any:
    """All processes over TCP, where a process that dies is noticed at once, so that waiting needs no limit."""
    return dist.new_group(backend="gloo", timeout=NO_TIMEOUT)


class Vote:
    """What one of the processes wants, answered to all of them at the same step: to stop, and to save.

    An answer is about the call before, so that no process waits for the network in between.

    Args:
        processes: this process and the others.
        seconds: between the times that the main process wants to save.
    """

    def __init__(self, processes: Processes, seconds: float) -> None:
        self.alone = processes.world_size == 1
        self.seconds = seconds if processes.is_main else math.inf
        self.asked: Any = None
        self.saved()

    def saved(self) -> None:
        """Count the seconds from now."""
        self.since = time.monotonic()

    def __call__(self, signal: int) -> tuple[int, bool]:
        """The signal that some process has received, 0 if none has, and whether it is time to save; all call it at every step."""
        if due := time.monotonic() - self.since > self.seconds:
            self.saved()  # so that it asks once
        if self.alone:
            return signal, due
        answer = self.result()
        wishes = torch.tensor([signal, int(due)])
        self.asked = dist.all_reduce(wishes, dist.ReduceOp.MAX, group=_waiting_group(), async_op=True), wishes
        return answer

    def result(self) -> tuple[int, bool]:
        """The answer to the last call; 0 and False before the first."""
        if self.asked is None:
            return 0, False
        work, wishes = self.asked
        self.asked = None
        work.wait()
        signal, due = wishes.tolist()
        return signal, bool(due)
