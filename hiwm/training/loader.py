"""Batches on the device, gathered one step ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from hiwm.levels.clip import Clip


def batches(draw: Callable[[int], Clip], steps: Sequence[int], device: torch.device) -> Iterator[Clip]:
    """The batch of each step, on the device.

    A thread gathers the batch of the next step, in pinned memory for a GPU, while this one is computed. Errors of `draw`
    are raised here. A batch depends on its step alone, so an interrupted training loses nothing with the one ahead.

    Args:
        draw: step -> its batch, on the CPU.
        steps: numbers of the optimiser steps.
        device: where the batches are needed.
    """
    pinned = device.type == "cuda"

    def gather(step: int) -> Clip:
        return draw(step).map(lambda x: x.pin_memory()) if pinned else draw(step)

    with ThreadPoolExecutor(1, "hiwm-loader") as thread:
        ahead = None
        for i, step in enumerate(steps):
            current = thread.submit(gather, step) if ahead is None else ahead
            clip = current.result()
            ahead = thread.submit(gather, steps[i + 1]) if i + 1 < len(steps) else None
            yield clip.map(lambda x: x.to(device, non_blocking=pinned))
