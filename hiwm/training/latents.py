"""The latents of a frozen level, cached for the whole dataset, so that the level above can train on them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from hiwm.data.columns import release
from hiwm.data.store import Trajectories, Writer, open_dataset
from hiwm.levels.device import upload
from hiwm.levels.level import Level
from hiwm.training.distributed import ALONE, Processes, to_main

ROWS_AT_ONCE = 16_384
BYTES_AT_ONCE = 32 << 20  # of inputs as float32
MADE_BY = "made_by"  # attribute of a cache


@torch.no_grad()
def cache_latents(
    level: Level,
    source: Trajectories,
    path: Path,
    inputs: Sequence[str],
    action: str,
    action_period: int,
    made_by: str = "",
    processes: Processes = ALONE,
) -> None:
    """Write `latent` (N, D) and `action` (N, A) for every row of the dataset.

    The processes take turns at blocks of episodes. The main process writes the blocks of all processes in order, so any
    number of processes writes the same file.

    `action[t]` is the level's (macro-)action from row t on; rows too near the end of an episode hold zeros
    and are never drawn.

    Args:
        level: the level, in eval mode.
        source: the data to encode.
        path: the HDF5 file to make, laid out like any dataset.
        inputs: columns that the level encodes.
        action: column of the actions of the level below.
        action_period: environment steps in one action of the level below.
        made_by: identifies the weights of the level; stored in the file, so that no other level uses it.
        processes: this process and the others; all call the function with the same weights and data.
    """
    period = level.stride * action_period
    block: Sequence[torch.Tensor] = []
    with Writer(path, {**source.metadata, MADE_BY: made_by}) if processes.is_main else nullcontext() as writer:
        for i, (first, last) in enumerate(_blocks(source.ep_len)):
            owner = i % processes.world_size
            rows = slice(int(source.ep_offset[first]), int(source.ep_offset[last - 1] + source.ep_len[last - 1]))
            if processes.rank == owner:
                block = _encoded_block(level, source, rows, inputs, action, action_period)
            block = to_main(block, owner, rows.stop - rows.start, processes)
            if writer is not None:
                _append(writer, source.ep_len[first:last], *block, period=period)


def _append(writer: Writer, lengths: np.ndarray, latent: torch.Tensor, macro: torch.Tensor, *, period: int) -> None:
    """Write the episodes of a block."""
    columns = {"latent": latent.numpy(), "action": macro.numpy()}
    offset = 0
    for length in lengths:
        episode = {name: column[offset : offset + length] for name, column in columns.items()}
        episode["action"] = episode["action"] * (np.arange(length) < length - period)[:, None]
        writer.append(episode)
        offset += length


def _encoded_block(
    level: Level, source: Trajectories, rows: slice, inputs: Sequence[str], action: str, action_period: int
) -> list[torch.Tensor]:
    """Latents and macro-actions of the rows of whole episodes, on the CPU."""
    device = next(level.buffers()).device
    latent = _encoded(level, source, rows, inputs, device)
    below = np.array(source.column(action)[rows])
    chunk = np.arange(level.stride) * action_period
    starts = np.minimum(np.arange(len(below))[:, None] + chunk, len(below) - 1)
    macro = level.encode_actions(latent, torch.from_numpy(below[starts]).to(device))
    return [latent.cpu(), macro.cpu()]


def _encoded(
    level: Level, source: Trajectories, rows: slice, inputs: Sequence[str], device: torch.device
) -> torch.Tensor:
    """Latents of the rows, (N, D), as many rows at once as BYTES_AT_ONCE allow."""
    columns = {name: source.column(name) for name in inputs}
    size = 4 * sum(int(np.prod(column.shape[1:])) for column in columns.values())
    step = max(1, BYTES_AT_ONCE // size)
    latents = []
    for first in range(rows.start, rows.stop, step):
        block = slice(first, min(first + step, rows.stop))
        latents.append(
            level.encode({name: upload(torch.from_numpy(np.array(x[block])), device) for name, x in columns.items()})
        )
        for column in columns.values():
            release(column)
    return torch.cat(latents)


def is_cache_of(path: Path, made_by: str) -> bool:
    """Whether the file is complete and holds the latents of these weights."""
    try:
        cache = open_dataset(path)
        return cache.metadata.get(MADE_BY) == made_by and cache.metadata.get("fingerprint") == cache.fingerprint
    except (ValueError, LookupError, OSError, RuntimeError, TypeError):  # what h5py raises for damaged files
        return False


def _blocks(ep_len: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of whole episodes of about ROWS_AT_ONCE rows."""
    block = np.cumsum(ep_len) // ROWS_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1), len(ep_len)]
    return [(int(a), int(b)) for a, b in pairwise(edges)]
