"""Views of columns: other rows, other types, several columns side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hiwm.data.columns import Column, read_rows


class GatheredColumn(Column):
    """Some rows of another column, in another order.

    Args:
        source: the column.
        rows: row of the source for each row of this one, (N,).
    """

    def __init__(self, source: Any, rows: np.ndarray) -> None:
        super().__init__((len(rows), *source.shape[1:]), source.dtype)
        self.source, self.rows = source, rows

    def read(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.source[self.rows[rows]])


class FloatColumn(Column):
    """Numbers of any type as float32, with at least one axis besides the rows: (N,) becomes (N, 1).

    Args:
        source: the column.
        fill: whether NaN becomes 0.
    """

    def __init__(self, source: Any, fill: bool = False) -> None:
        super().__init__(source.shape if len(source.shape) > 1 else (len(source), 1), np.dtype(np.float32))
        self.source, self.fill = source, fill

    def read(self, rows: np.ndarray) -> np.ndarray:
        with np.errstate(
            over="ignore"
        ):  # a number beyond float32 becomes infinite, which `Trajectories.checked` refuses
            found = np.array(self.source[rows], np.float32).reshape(len(rows), *self.shape[1:])
        return np.nan_to_num(found, copy=False, posinf=0.0, neginf=0.0) if self.fill else found


class OneHotColumn(Column):
    """Whole numbers (N,) or (N, 1) as one-hot vectors (N, n): number `start` + i sets element i.

    Other numbers, which only an action that is never executed may be, become the nearest one.

    Args:
        source: the column.
        start: the smallest number.
        number: how many numbers n there may be.
    """

    def __init__(self, source: Any, start: int, number: int) -> None:
        super().__init__((len(source), number), np.dtype(np.float32))
        self.source, self.start = source, start

    def read(self, rows: np.ndarray) -> np.ndarray:
        chosen = np.asarray(self.source[rows]).reshape(-1).astype(np.int64) - self.start
        return np.eye(self.shape[1], dtype=np.float32)[chosen.clip(0, self.shape[1] - 1)]


class JoinedColumn(Column):
    """Columns side by side as float32, (N, C), each flattened.

    Args:
        sources: the columns, with equally many rows.
        most: elements C at most, the first ones; None for all.
        spread: evenly spaced elements instead of the first.
    """

    def __init__(self, sources: Sequence[Any], most: int | None = None, spread: bool = False) -> None:
        size = sum(int(np.prod(source.shape[1:], dtype=np.int64)) for source in sources)
        kept = size if most is None else min(size, most)
        super().__init__((len(sources[0]), kept), np.dtype(np.float32))
        self.sources = sources
        self.elements = np.linspace(0, size - 1 if spread else kept - 1, kept).round().astype(np.int64)

    def read(self, rows: np.ndarray) -> np.ndarray:
        found, step = np.empty((len(rows), self.shape[1]), np.float32), 1024
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            parts = [read_rows(source, some).reshape(len(some), -1) for source in self.sources]
            found[start : start + step] = np.concatenate(parts, 1)[:, self.elements]
        return found
