"""A function run by two processes of one group, for tests of what must be exact under data parallelism."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from hiwm.training.distributed import end_process


def run(function: Callable[[int, str], None], folder: Path, seconds: float = 600) -> None:
    """Call `function(rank, folder)` in two processes of a group with that timeout and wait for both."""
    torch.multiprocessing.spawn(_one, (function, str(folder), seconds), nprocs=2)


def _one(rank: int, function: Callable[[int, str], None], folder: str, seconds: float) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=seconds)
    )
    function(rank, folder)
    dist.barrier()
    end_process(0)
