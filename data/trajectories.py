"""Trajectories: episodes one after another in flat columns, whatever file they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

STATISTICS_ROWS = 20_000  # number of evenly spaced rows that means and standard deviations are computed from
STATISTICS_BLOCK = 1_000  # number of these rows in memory at once
FINGERPRINT_ROWS = 4_096


class DatasetError(ValueError):
    """A dataset that cannot be used; the message names the file."""


@dataclass
class Trajectories:
    """Episodes in flat columns, one row per step.

    Args:
        path: the file that holds the episodes.
        columns: name -> array (N, ...), usually a memory map.
        ep_len: steps of each episode, (episodes,).
        ep_offset: first row of each episode, (episodes,).
        metadata: facts stored in the file, such as the environment and the collection config.
    """

    path: Path
    columns: Mapping[str, np.ndarray]
    ep_len: np.ndarray
    ep_offset: np.ndarray
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ends = np.asarray(self.ep_offset, np.int64) + self.ep_len
        if (self.ep_len < 1).any() or (self.ep_offset[1:] != ends[:-1]).any():
            raise DatasetError(
                f"{self.path}: ep_offset is not the running sum of ep_len; expected episodes one after another"
            )
        for name, column in self.columns.items():
            if len(column) < int(self.ep_len.sum()):
                raise DatasetError(
                    f"{self.path}: column {name!r} has {len(column)} rows, but ep_len adds up to {int(self.ep_len.sum())}"
                )

    @property
    def num_steps(self) -> int:
        return int(self.ep_len.sum())

    @property
    def rows(self) -> np.ndarray:
        """Indices of the rows of these episodes, (num_steps,)."""
        return np.arange(self.num_steps) + self.ep_offset[0]

    def starts(self, period: int) -> np.ndarray:
        """Indices of the rows that are followed by `period` more rows in their episode, in order."""
        ends = np.repeat(self.ep_offset + self.ep_len, self.ep_len)
        rows = self.rows
        return rows[rows + period < ends]

    def column(self, name: str) -> np.ndarray:
        """The column of this name.

        Raises:
            DatasetError: there is none; the message lists those there are.
        """
        if name not in self.columns:
            raise DatasetError(f"{self.path}: there is no column {name!r}; expected one of {sorted(self.columns)}")
        return self.columns[name]

    def statistics(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each element of a column, from at most 20 000 evenly spaced rows."""
        column = self.column(name)
        rows = _evenly_spaced(len(column), STATISTICS_ROWS)
        blocks = [rows[i : i + STATISTICS_BLOCK] for i in range(0, len(rows), STATISTICS_BLOCK)]
        mean = sum(np.asarray(column[block]).sum(0, dtype=np.float64) for block in blocks) / len(rows)
        variance = sum(np.square(column[block] - mean).sum(0) for block in blocks) / len(rows)
        return np.asarray(mean, np.float32), np.sqrt(variance, dtype=np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that identify the content: shapes, episode lengths and up to 4096 rows of each column."""
        digest = hashlib.sha256(self.ep_len.astype(np.int64).tobytes())
        for name in sorted(self.columns):
            column = self.columns[name]
            digest.update(f"{name}{column.shape}{column.dtype}".encode())
            rows = np.asarray(column[_evenly_spaced(len(column), FINGERPRINT_ROWS)])
            digest.update(np.ascontiguousarray(rows).tobytes())
        return digest.hexdigest()[:16]

    def split(self, validation: float) -> tuple[Trajectories, Trajectories]:
        """Training and validation episodes; the last fraction `validation` (at least one episode) is held out."""
        held_out = max(1, round(len(self.ep_len) * validation))
        if held_out >= len(self.ep_len):
            raise DatasetError(
                f"{self.path}: {len(self.ep_len)} episodes cannot be split for validation; expected at least 2"
            )
        return self._episodes(slice(None, -held_out)), self._episodes(slice(-held_out, None))

    def _episodes(self, which: slice) -> Trajectories:
        return Trajectories(self.path, self.columns, self.ep_len[which], self.ep_offset[which], self.metadata)


def _evenly_spaced(total: int, number: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(number, total)).round().astype(np.int64))
