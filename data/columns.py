"""Columns that are read when rows are asked for. A column has one axis of rows, like the array it stands for.

A contiguous column of a file is a `numpy.memmap`. The classes here stand for chunked and compressed columns, which numpy cannot
map; `hiwm.data.views` change what is read. None of them copies the whole column.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

BLOCK_BYTES = 8 << 20  # of rows in memory at once, where a whole column is read
DECODED_BYTES = 64 << 20  # of decoded chunks that a process keeps
KEPT_BYTES = 64 << 20  # of a memory map that random reads may leave in a process
RUN_BYTES = 16 << 20  # of chunks that one read decodes


class DatasetError(ValueError):
    """A dataset that cannot be used; the message names the file."""


class Column:
    """Base class: turns what an array can be indexed with into row numbers, and asks `read` for them.

    Args:
        shape: (N, ...).
        dtype: of the elements.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n,) with numbers from 0 to N - 1, in any order -> a new array (n, ...)."""
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows: a number, a slice, a mask (N,) or row numbers of any shape (...) -> (..., *shape[1:])."""
        if isinstance(index, slice):
            rows = np.arange(*index.indices(len(self)))
        else:
            rows = np.asarray(index)
            if rows.dtype == bool:
                rows = np.flatnonzero(rows)
            rows = np.where(rows < 0, rows + len(self), rows).astype(np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"a row is out of bounds; expected rows from 0 to {len(self) - 1}")
        return self.read(rows.reshape(-1)).reshape((*rows.shape, *self.shape[1:]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class FramedColumn(Column):
    """Chunks without compression: every row is a run of bytes in the file, at an offset from a table.

    Args:
        path: the file.
        shape: (N, ...).
        dtype: as stored.
        chunks: offset of each chunk in the file, in bytes; in the order of their rows.
        chunk_rows: rows of a chunk.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: np.dtype, chunks: np.ndarray, chunk_rows: int
    ) -> None:
        super().__init__(shape, dtype)
        self.chunks, self.chunk_rows = chunks, chunk_rows
        self.row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self.file = np.memmap(path, np.uint8, "r")
        if len(chunks) and int(chunks.max()) + chunk_rows * self.row_bytes > len(self.file):
            raise DatasetError(f"{path} is truncated: a column ends after the end of the file")

    def read(self, rows: np.ndarray) -> np.ndarray:
        starts = self.chunks[rows // self.chunk_rows] + rows % self.chunk_rows * self.row_bytes
        # one overlapping window per byte of the file, of which numpy copies those at `starts`
        windows = np.lib.stride_tricks.as_strided(
            self.file, (len(self.file) - self.row_bytes + 1, self.row_bytes), (1, 1), writeable=False
        )
        return np.ascontiguousarray(windows[starts]).view(self.dtype).reshape(len(rows), *self.shape[1:])

    @property
    def _mmap(self) -> mmap.mmap:
        return self.file._mmap  # type: ignore[attr-defined]


class CompressedColumn(Column):
    """A column that only h5py can read; the chunks read last stay decoded, for all columns of a process together.

    Each process opens the file for itself, because HDF5's handles do not survive a fork.

    Args:
        path: the file.
        name: of the HDF5 dataset.
        shape: (N, ...).
        dtype: as h5py reads it.
        chunk_rows: rows of a chunk.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype, chunk_rows: int) -> None:
        super().__init__(shape, dtype)
        self.path, self.name, self.chunk_rows = path.resolve(), name, chunk_rows
        self.identity = file_identity(self.path)
        self.chunk_bytes = max(1, chunk_rows * int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize)
        self._opened: tuple[int, h5py.Dataset] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def read(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if self.chunk_rows == 1:  # nothing is decoded in vain: read as drawn, window by window
            position = 0
            for start, stop in _runs(rows.tolist(), max(1, RUN_BYTES // self.chunk_bytes)):
                found[position : position + stop - start] = self._from_file(start, stop)
                position += stop - start
            return found
        order = np.argsort(rows, kind="stable")
        chunks = rows[order] // self.chunk_rows
        wanted, first = np.unique(chunks, return_index=True)
        last = np.append(first[1:], len(rows))
        for start, decoded in self._decoded(wanted):
            # all rows of these chunks at once
            low, high = np.searchsorted(wanted, [start, start + -(-len(decoded) // self.chunk_rows)])
            here = order[first[low] : last[high - 1]]
            found[here] = decoded[rows[here] - start * self.chunk_rows]
        return found

    def _decoded(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Number of the first chunk, and the rows of one or several neighbouring chunks; all that are wanted (n,)."""
        missing = []
        for chunk in wanted.tolist():
            if (kept := _decoded_chunks.get(self._key(chunk))) is None:
                missing.append(chunk)
            else:
                yield chunk, kept
        most = max(1, RUN_BYTES // self.chunk_bytes)
        for start, stop in _runs(missing, most):
            rows = self._from_file(start * self.chunk_rows, min(stop * self.chunk_rows, len(self)))
            for chunk in range(start, stop):
                offset = (chunk - start) * self.chunk_rows
                part = rows[offset : offset + self.chunk_rows]
                _decoded_chunks.put(self._key(chunk), part if stop - start == 1 else part.copy())
            yield start, rows

    def _key(self, chunk: int) -> tuple:
        return self.path, self.identity, self.name, chunk

    def _from_file(self, first: int, end: int) -> np.ndarray:
        try:
            return np.asarray(self._dataset()[first:end], self.dtype)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(
                f"{self.path}: rows {first} to {end - 1} of column {self.name!r} cannot be read ({error}). The file may be damaged"
            ) from error

    def _dataset(self) -> h5py.Dataset:
        if self._opened is None or self._opened[0] != os.getpid():
            if file_identity(self.path) != self.identity:
                raise DatasetError(f"{self.path} has changed since it was opened. Run the command again")
            file: Any = h5py.File(self.path, "r", rdcc_nbytes=0)  # HDF5's own cache makes it slower
            self._opened = (os.getpid(), file[self.name])
        return self._opened[1]


class _Chunks:
    """Decoded chunks of all columns, the least recently used of which are dropped."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self.bytes = 0

    def get(self, key: tuple) -> np.ndarray | None:
        if (found := self.kept.get(key)) is not None:
            self.kept.move_to_end(key)
        return found

    def put(self, key: tuple, rows: np.ndarray) -> None:
        if rows.nbytes > DECODED_BYTES // 2:
            return
        self.bytes += rows.nbytes - (self.kept.pop(key).nbytes if key in self.kept else 0)
        self.kept[key] = rows
        while self.bytes > DECODED_BYTES:
            self.bytes -= self.kept.popitem(last=False)[1].nbytes


_decoded_chunks = _Chunks()


def _runs(numbers: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Numbers as ranges (start, stop) of those that follow one another, of at most `most` each."""
    start = stop = numbers[0] if numbers else 0
    for number in numbers:
        if number != stop or number - start >= most:
            yield start, stop
            start = number
        stop = number + 1
    if numbers:
        yield start, stop


def file_identity(path: Path) -> tuple[int, int, int, int]:
    """What changes when a file is replaced or written: inode, size, and times of modification and of change in ns."""
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def blocks(column: Any, rows: np.ndarray | None = None, most: int | None = None) -> Iterator[np.ndarray]:
    """Read a column piece by piece, so that memory does not grow with it.

    Args:
        column: a column or an array.
        rows: the rows to read, (n,); None for all of them.
        most: rows of a piece, at most; None: as many as fit into BLOCK_BYTES.

    Yields:
        Rows, in order.
    """
    each = max(1, int(np.prod(column.shape[1:], dtype=np.int64)) * max(4, column.dtype.itemsize))
    step = max(1, min(BLOCK_BYTES // each, most or BLOCK_BYTES))
    total = len(column) if rows is None else len(rows)
    for start in range(0, total, step):
        stop = min(start + step, total)
        yield np.asarray(column[start:stop] if rows is None else column[rows[start:stop]])
        release(column)


def read_rows(column: Any, rows: np.ndarray, kept: int = KEPT_BYTES) -> np.ndarray:
    """`column[rows]` for random rows (...), in pieces, so that a memory map keeps little of a large file in this process.

    Args:
        column: a column or an array.
        rows: row numbers.
        kept: bytes of a column that is so small that all of it may stay.
    """
    if int(np.prod(column.shape, dtype=np.int64)) * column.dtype.itemsize <= kept or _map_of(column) is None:
        return column[rows]
    flat, row_shape = rows.reshape(-1), tuple(column.shape[1:])
    found = np.empty((len(flat), *row_shape), column.dtype)
    step = 16 if found[:1].nbytes >= mmap.PAGESIZE else 64  # the kernel maps up to 2 MB around a row
    for start in range(0, len(flat), step):
        found[start : start + step] = column[flat[start : start + step]]
        release(column)
    return found.reshape(*rows.shape, *row_shape)


def release(column: Any) -> None:
    """Take what was read of a memory map out of this process; the operating system keeps it cached.

    Otherwise the pages that a process has touched count as its memory, up to the whole file.
    """
    for source in getattr(column, "sources", [column]):  # columns side by side, or one
        mapped = _map_of(source)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def _map_of(column: Any) -> mmap.mmap | None:
    while (source := getattr(column, "source", None)) is not None:  # of a view
        column = source
    return getattr(column, "_mmap", None)
