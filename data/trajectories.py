"""Trajectories: episodes one after another in flat columns, from any file format."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hiwm.data.columns import DatasetError, blocks
from hiwm.data.scan import FileScan, combine, scan_column
from hiwm.data.views import FloatColumn, GatheredColumn, OneHotColumn

STATISTICS_ROWS = 20_000  # number of evenly spaced rows that means and standard deviations are computed from
STATISTICS_BLOCK = 1_000  # most of these rows in memory at once
MOST_ACTIONS = 1_000  # different discrete actions

__all__ = ["DatasetError", "Trajectories"]


class _Columns(dict):
    """Columns by name; the error for a missing column says why it is missing."""

    def __init__(self, columns: Mapping[str, Any], path: Path, unusable: Mapping[str, str]) -> None:
        super().__init__(columns)
        self.path, self.unusable = path, unusable

    def __missing__(self, name: str) -> Any:
        if name in self.unusable:
            raise DatasetError(f"{self.path}: column {name!r} {self.unusable[name]}")
        raise DatasetError(f"{self.path}: there is no column {name!r}; expected one of {sorted(self)}")


@dataclass
class Trajectories:
    """Episodes in flat columns, one row per step.

    Args:
        path: the file that holds the episodes.
        columns: name -> array (N, ...) as stored: a memory map or a `hiwm.data.columns.Column`.
        ep_len: steps of each episode, (episodes,).
        ep_offset: first row of each episode, (episodes,).
        metadata: facts stored in the file, such as the environment and the collection config.
        unusable: columns of the file that do not hold numbers per row -> why; `column` says so.
        scans: what earlier commands found in the columns of this file; None for columns that belong to no file.
        discrete: the first of the environment's discrete actions, and how many there are; None for those that the data hold.
    """

    path: Path
    columns: Mapping[str, Any]
    ep_len: np.ndarray
    ep_offset: np.ndarray
    metadata: dict[str, Any] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)
    scans: FileScan | None = None
    discrete: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.columns = _Columns(self.columns, self.path, self.unusable)
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
        counts = self.starts_per_episode(period)
        shift = self.ep_offset - (np.cumsum(counts) - counts)
        return np.arange(counts.sum()) + np.repeat(shift, counts)

    def starts_per_episode(self, period: int) -> np.ndarray:
        """How many of the `starts` each episode has, (episodes,)."""
        return np.maximum(np.asarray(self.ep_len, np.int64) - period, 0)

    def column(self, name: str) -> Any:
        """The column of this name as models take it, (N, ...): images as bytes, all other numbers as float32.

        (N,) becomes (N, 1). Actions that are whole numbers (N,) or (N, 1) become one-hot vectors.

        Raises:
            DatasetError: there is none, or it holds no numbers; the message lists those there are.
        """
        column = self.columns[name]
        if name == "action" and self.has_numbered_actions:
            return OneHotColumn(column, *(self.discrete or self._numbers))
        if column.ndim > 1 and (column.dtype == np.float32 or (column.dtype == np.uint8 and column.ndim > 2)):
            return column
        return FloatColumn(column)

    @property
    def has_numbered_actions(self) -> bool:
        """Whether an action is one whole number (N,) or (N, 1), which stands for one of several actions."""
        column = self.columns["action"]
        return column.dtype.kind in "iub" and bool(np.prod(column.shape[1:]) == 1)

    def numbered(self, start: int, number: int) -> Trajectories:
        """These episodes, whose actions are whole numbers, with one-hot vectors for `number` actions from `start` on.

        Other vectors than those of the numbers in the data make another fingerprint.
        """
        found = copy.copy(self)
        found.discrete = start, number
        if found.discrete != self._numbers:
            known = f"{self.fingerprint} {start} {number}"
            found.__dict__["fingerprint"] = hashlib.sha256(known.encode()).hexdigest()[:16]
        return found

    @cached_property
    def _numbers(self) -> tuple[int, int]:
        """The smallest of the whole numbers that are actions, and how many there are up to the largest."""
        column = self.columns["action"]
        ranges = [(int(block.min()), int(block.max())) for block in blocks(column)]
        start, end = min(low for low, _ in ranges), max(high for _, high in ranges)
        if end - start >= MOST_ACTIONS:
            raise DatasetError(
                f"{self.path}: column 'action' holds whole numbers from {start} to {end}; expected at most {MOST_ACTIONS} "
                "discrete actions. Store actions that are quantities as float32"
            )
        return start, max(2, end - start + 1)

    def statistics(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each element of a column, from at most 20 000 evenly spaced rows."""
        column = self.column(name)
        rows = _evenly_spaced(self.num_steps, STATISTICS_ROWS) + int(self.ep_offset[0])
        with np.errstate(invalid="ignore"):  # of infinity, which `checked` refuses
            total = sum(block.sum(0, dtype=np.float64) for block in blocks(column, rows, STATISTICS_BLOCK))
            mean = total / len(rows)
            squares = sum(np.square(block - mean).sum(0) for block in blocks(column, rows, STATISTICS_BLOCK))
        return np.asarray(mean, np.float32), np.sqrt(squares / len(rows), dtype=np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that identify the content: names, types, episode lengths and every byte of every column."""
        return combine(self.ep_len, {name: self._scan(name) for name in self.columns})

    def _scan(self, name: str) -> dict[str, Any]:
        if self.scans is None:
            return scan_column(self.columns[name], self.ep_len, self.ep_offset)
        return self.scans.of(name, self.columns[name], self.ep_len, self.ep_offset)

    def checked(self, names: Iterable[str]) -> Trajectories:
        """These episodes, if the named columns hold finite numbers.

        The last action of an episode is never executed. It may be NaN, and is read as 0.

        Raises:
            DatasetError: a number is NaN or infinite, or there is no such column; the message names column, episode and row.
        """
        found = copy.copy(self)
        for name in names:
            self.column(name)
            scan = self._scan(name)
            last = None if name == "action" else scan["last"]
            row = min((row for row in (scan["row"], last) if row is not None), default=None)
            if row is not None:
                episode, step = self.place(row)
                raise DatasetError(
                    f"{self.path}: column {name!r} is NaN or infinite in row {row}, which is step "
                    f"{step} of episode {episode}; expected finite numbers. Remove the episode or "
                    "correct the numbers"
                )
            if scan["last"] is not None:  # of an action
                filled = {**found.columns, name: FloatColumn(self.columns[name], fill=True)}
                found.columns = _Columns(filled, self.path, self.unusable)
        found.__dict__["fingerprint"] = self.fingerprint
        return found

    def place(self, row: int) -> tuple[int, int]:
        """The episode that a row belongs to, and the step in it."""
        episode = int(np.searchsorted(self.ep_offset, row, side="right")) - 1
        return episode, row - int(self.ep_offset[episode])

    def split(self, validation: float) -> tuple[Trajectories, Trajectories]:
        """Training and validation episodes; the last fraction `validation` (at least one episode) is held out."""
        held_out = max(1, round(len(self.ep_len) * validation))
        if held_out >= len(self.ep_len):
            raise DatasetError(
                f"{self.path}: {len(self.ep_len)} episodes cannot be split for validation; expected at least 2"
            )
        return self._episodes(slice(None, -held_out)), self._episodes(slice(-held_out, None))

    def _episodes(self, which: slice) -> Trajectories:
        return replace(self, ep_len=self.ep_len[which], ep_offset=self.ep_offset[which])


def in_order(
    path: Path,
    columns: Mapping[str, Any],
    ep_len: np.ndarray,
    ep_offset: np.ndarray,
    metadata: dict[str, Any],
    unusable: Mapping[str, str] | None = None,
    scans: FileScan | None = None,
) -> Trajectories:
    """Trajectories from episodes that may lie anywhere in the columns; episodes of length 0 are left out.

    Args:
        path: the file.
        columns: name -> array or column; those with too few rows become unusable.
        ep_len: steps of each episode, whole numbers of any type.
        ep_offset: first row of each episode, likewise.
        metadata: of the file.
        unusable: columns that cannot be used -> why.
        scans: of the columns.

    Raises:
        DatasetError: the two index columns do not describe episodes, or no column can be used.
    """
    lengths, offsets = _whole(path, "ep_len", ep_len), _whole(path, "ep_offset", ep_offset)
    if len(lengths) != len(offsets):
        raise DatasetError(
            f"{path}: ep_len has {len(lengths)} entries and ep_offset has {len(offsets)}; expected equally many"
        )
    lengths, offsets = lengths[lengths > 0], offsets[lengths > 0]
    if not len(lengths):
        raise DatasetError(f"{path} holds no episodes; expected at least one with a row")
    if int(lengths.max()) + int(offsets.max()) >= 2**62 or float(lengths.sum(dtype=np.float64)) >= 2**62:
        raise DatasetError(
            f"{path}: ep_len or ep_offset holds {max(lengths.max(), offsets.max())}; expected rows of the file"
        )
    _refuse_overlaps(path, lengths, offsets)
    end = int((offsets + lengths).max())
    reasons = dict(unusable or {})
    for name, column in columns.items():
        if len(column) < end:
            reasons[name] = f"has {len(column)} rows, but the episodes need {end} rows (ep_len, ep_offset)"
    usable = {name: column for name, column in columns.items() if name not in reasons}
    if "action" in reasons or not usable:
        name = "action" if "action" in reasons else min(reasons, default=None)
        raise DatasetError(f"{path}: column {name!r} {reasons[name]}" if name else f"{path} has no columns")
    total, starts = int(lengths.sum()), np.cumsum(lengths) - lengths
    if (offsets != starts).any():
        rows = np.arange(total) + np.repeat(offsets - starts, lengths)
        usable = {name: GatheredColumn(column, rows) for name, column in usable.items()}
    else:
        usable = {name: _first(column, total) for name, column in usable.items()}
    if scans is not None:
        scans.columns = dict(usable)
    return Trajectories(path, usable, lengths, starts, metadata, reasons, scans)


def _first(column: Any, rows: int) -> Any:
    """The first rows of a column."""
    if len(column) == rows:
        return column
    return column[:rows] if isinstance(column, np.ndarray) else GatheredColumn(column, np.arange(rows))


def _whole(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "iuf" or values.size != max(values.shape, default=0):
        raise DatasetError(
            f"{path}: {name} is an array {values.shape} of {values.dtype}; expected one whole number per episode"
        )
    values = values.reshape(-1)
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
        bad = np.flatnonzero((whole != values) | (values < 0))
    if len(bad):
        raise DatasetError(
            f"{path}: {name} is {values[bad[0]]} for episode {bad[0]}; expected a whole number of rows, 0 or more"
        )
    return whole


def _refuse_overlaps(path: Path, lengths: np.ndarray, offsets: np.ndarray) -> None:
    order = np.argsort(offsets, kind="stable")
    ends = (offsets + lengths)[order]
    shared = np.flatnonzero(offsets[order][1:] < ends[:-1])
    if len(shared):
        one, other = sorted(order[shared[0] : shared[0] + 2].tolist())
        raise DatasetError(
            f"{path}: ep_offset puts episodes {one} and {other} into the same rows; expected every row in one episode, because "
            "validation holds episodes out"
        )


def _evenly_spaced(total: int, number: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(number, total)).round().astype(np.int64))
