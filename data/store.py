"""The HDF5 trajectory store, laid out as stable-worldmodel's.

One flat dataset a column (`action`, `state`, `pixels`, ...: one row a step, episodes one after another) and two index
columns, `ep_len` (steps of each episode) and `ep_offset` (its first row). Row t holds the observation at t and the
action taken there; the action of an episode's last row leads nowhere. Columns are contiguous and uncompressed, so they
are read as a memory map at their offset in the file; chunked files of other writers are read through h5py.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

INDEX = ("ep_len", "ep_offset")
STATISTICS_ROWS = 20_000  # evenly spaced rows that means and deviations are taken from
STATISTICS_BLOCK = 1_000  # of them in memory at once
FINGERPRINT_ROWS = 4_096


class DatasetError(ValueError):
    """A dataset that cannot be used; the message names the file."""


@dataclass
class Trajectories:
    """Episodes in flat columns.

    Args:
        path: the file they came from.
        columns: name -> array (N, ...), often a memory map.
        ep_len: steps of each episode, (episodes,).
        ep_offset: first row of each episode, (episodes,).
        metadata: what the file says of itself: environment id, collection config.
    """

    path: Path
    columns: Mapping[str, np.ndarray]
    ep_len: np.ndarray
    ep_offset: np.ndarray
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ends = np.asarray(self.ep_offset, np.int64) + self.ep_len
        if (self.ep_len < 1).any() or (self.ep_offset[1:] != ends[:-1]).any():
            raise DatasetError(f"{self.path}: ep_offset does not put the episodes one after another")
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
        """Rows of the columns that are steps of these episodes, (num_steps,)."""
        return np.arange(self.num_steps) + self.ep_offset[0]

    def starts(self, period: int) -> np.ndarray:
        """Rows of the columns from which `period` more follow in their episode, in order."""
        ends = np.repeat(self.ep_offset + self.ep_len, self.ep_len)
        rows = self.rows
        return rows[rows + period < ends]

    def column(self, name: str) -> np.ndarray:
        """The column, or an error that lists those there are."""
        if name not in self.columns:
            raise DatasetError(f"{self.path}: no column {name!r}; it has {sorted(self.columns)}")
        return self.columns[name]

    def statistics(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of a column, element by element, over at most 20 000 evenly spaced rows."""
        column = self.column(name)
        rows = _evenly_spaced(len(column), STATISTICS_ROWS)
        blocks = [rows[i : i + STATISTICS_BLOCK] for i in range(0, len(rows), STATISTICS_BLOCK)]
        mean = sum(np.asarray(column[block]).sum(0, dtype=np.float64) for block in blocks) / len(rows)
        variance = sum(np.square(column[block] - mean).sum(0) for block in blocks) / len(rows)
        return np.asarray(mean, np.float32), np.sqrt(variance, dtype=np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that stand for the content: shapes, the episode table and 4096 rows of each column."""
        digest = hashlib.sha256(self.ep_len.astype(np.int64).tobytes())
        for name in sorted(self.columns):
            column = self.columns[name]
            digest.update(f"{name}{column.shape}{column.dtype}".encode())
            rows = np.asarray(column[_evenly_spaced(len(column), FINGERPRINT_ROWS)])
            digest.update(np.ascontiguousarray(rows).tobytes())
        return digest.hexdigest()[:16]

    def split(self, validation: float) -> tuple[Trajectories, Trajectories]:
        """Training and validation episodes: the last `validation` share (at least one) is held out."""
        held_out = max(1, round(len(self.ep_len) * validation))
        if held_out >= len(self.ep_len):
            raise DatasetError(
                f"{self.path}: {len(self.ep_len)} episodes cannot be split for validation; needs 2 or more"
            )
        return self._episodes(slice(None, -held_out)), self._episodes(slice(-held_out, None))

    def _episodes(self, which: slice) -> Trajectories:
        return Trajectories(self.path, self.columns, self.ep_len[which], self.ep_offset[which], self.metadata)


def _evenly_spaced(total: int, number: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(number, total)).round().astype(np.int64))


def open_dataset(path: str | Path) -> Trajectories:
    """Open an HDF5 trajectory file, or an official OGBench `.npz`.

    Raises:
        DatasetError: the file is missing, truncated, or not a trajectory file.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(
            f"no dataset at {path} (dataset.path); `hiwm collect` makes one, where the config names an environment"
        )
    if path.suffix == ".npz":
        from hiwm.data.importers.ogbench_npz import read_npz

        return read_npz(path)
    try:
        with h5py.File(path, "r") as opened:
            file: Any = opened  # columns are Datasets; h5py's types also allow groups
            missing = [name for name in INDEX if name not in file]
            if missing:
                raise DatasetError(f"{path}: not a trajectory file, it has no {' and no '.join(missing)}")
            columns = {name: _column(path, file[name]) for name in file if name not in INDEX}
            metadata = {key: _plain(value) for key, value in file.attrs.items() if isinstance(value, str)}
            return Trajectories(path, columns, file["ep_len"][:], file["ep_offset"][:], metadata)
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{path}: cannot be read as HDF5, it may be truncated ({error})") from error


def _plain(attribute: str) -> Any:
    try:
        return json.loads(attribute)
    except json.JSONDecodeError:  # another writer's text
        return attribute


def _column(path: Path, dataset: h5py.Dataset | h5py.Group) -> np.ndarray:
    if not isinstance(dataset, h5py.Dataset):
        raise DatasetError(f"{path}: {dataset.name!r} is a group; allowed: one flat dataset a column")
    offset = dataset.id.get_offset()
    if offset is None or dataset.size == 0:  # chunked or compressed: another writer's file
        return dataset[:]
    if offset + dataset.nbytes > path.stat().st_size:
        raise DatasetError(f"{path}: truncated, column {dataset.name!r} ends after the end of the file")
    return np.memmap(path, mode="r", dtype=dataset.dtype, shape=dataset.shape, offset=offset)


class Writer:
    """Writes episodes of any length; the file appears under its name only when it is whole.

    Rows are appended to one plain file a column and copied into contiguous HDF5 datasets on leaving the `with`.

    Args:
        path: the `.h5` file to make.
        metadata: JSON-ready facts kept as attributes: environment id, collection config.
        resume: keep the whole episodes of a `with` that was left by an error or a kill, and begin with those of an
            earlier one, `ep_len` says how many; the same metadata must be given.

    Raises:
        DatasetError: on entering, with `resume`: the episodes there belong to other metadata, or another process is
            writing them.
    """

    def __init__(self, path: str | Path, metadata: Mapping[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self.metadata = dict(metadata)
        self.resume = resume
        self.parts = self.path.with_suffix(".parts")
        self.temporary = self.path.with_suffix(".tmp")
        self.columns: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        self.ep_len: list[int] = []

    def __enter__(self) -> Writer:
        self.parts.mkdir(parents=True, exist_ok=True)
        self.stack = ExitStack()
        self.files: dict[str, Any] = {}
        self.index: Any = self.stack.enter_context((self.parts / "ep_len").open("a+b"))  # no column has this name
        try:
            fcntl.flock(self.index, fcntl.LOCK_EX | fcntl.LOCK_NB)  # falls with the process
            if self.resume:
                self._restore()
            else:
                self.index.truncate(0)
        except BaseException as error:
            self.stack.close()
            if isinstance(error, BlockingIOError):
                raise DatasetError(f"{self.path}: another process is writing it") from error
            raise
        return self

    def _restore(self) -> None:
        """Take over the whole episodes of an earlier `with`; what a kill left behind them is cut off."""
        self.index.seek(0)
        lines = [line for line in self.index.read().splitlines(keepends=True) if line.endswith(b"\n")]
        if lines:
            found = json.loads(lines[0])
            if found["metadata"] != json.loads(json.dumps(self.metadata)):
                raise DatasetError(
                    f"{self.parts} holds {len(lines) - 1} episodes with {found['metadata']}, to be gone on with as "
                    f"{self.metadata}; give another path or remove the folder"
                )
            self.columns = {name: (tuple(shape), np.dtype(kind)) for name, (shape, kind) in found["columns"].items()}
            self.ep_len = [int(line) for line in lines[1:]]
            self._open()
            row = {name: kind.itemsize * math.prod(shape) for name, (shape, kind) in self.columns.items()}
            rows = min(os.fstat(self.files[name].fileno()).st_size // size for name, size in row.items())
            while sum(self.ep_len) > rows:  # the machine went down before all was on the disk
                self.ep_len.pop()
            for name, size in row.items():
                self.files[name].truncate(size * sum(self.ep_len))
        self.index.truncate(sum(map(len, lines[: 1 + len(self.ep_len)])))

    def _open(self) -> None:
        self.files = {name: self.stack.enter_context((self.parts / name).open("ab")) for name in self.columns}

    def append(self, episode: Mapping[str, np.ndarray]) -> None:
        """Add one episode: column name -> (steps, ...), the same columns, shapes and types every time."""
        layout = {name: (rows.shape[1:], rows.dtype) for name, rows in episode.items()}
        if not self.columns:
            self.columns = layout
            self._open()
            for file in self.files.values():
                file.truncate(0)  # an earlier writer's
            columns = {name: (shape, kind.str) for name, (shape, kind) in layout.items()}
            self._note(json.dumps({"metadata": self.metadata, "columns": columns}))
        lengths = {len(rows) for rows in episode.values()}
        if layout != self.columns or len(lengths) != 1:
            raise DatasetError(
                f"{self.path}: an episode has columns {layout}, steps {lengths}; expected {self.columns}"
            )
        for name, rows in episode.items():
            np.ascontiguousarray(rows).tofile(self.files[name])
        self.ep_len.append(lengths.pop())
        self._note(str(self.ep_len[-1]))  # last: an episode counts once all its rows are there

    def _note(self, line: str) -> None:
        self.index.write(f"{line}\n".encode())
        self.index.flush()

    def __exit__(self, kind: type | None, *_: object) -> None:
        whole = False
        try:
            if kind is None:
                self._assemble()
                whole = True
        finally:
            if whole or not (self.resume and self.ep_len):
                shutil.rmtree(self.parts)
            self.temporary.unlink(missing_ok=True)
            self.stack.close()

    def _assemble(self) -> None:
        if not self.ep_len:
            raise DatasetError(f"{self.path}: no episodes were written")
        ep_len = np.asarray(self.ep_len, np.int32)
        with h5py.File(self.temporary, "w", libver="latest") as file:
            file["ep_len"] = ep_len
            file["ep_offset"] = np.concatenate([[0], np.cumsum(ep_len[:-1], dtype=np.int64)])
            for name, (shape, dtype) in self.columns.items():
                rows = np.memmap(self.parts / name, mode="r", dtype=dtype).reshape(-1, *shape)
                column = file.create_dataset(name, rows.shape, dtype)
                block = max(1, (64 << 20) // max(1, rows[:1].nbytes))
                for start in range(0, len(rows), block):
                    column[start : start + block] = rows[start : start + block]
            for key, value in self.metadata.items():
                file.attrs[key] = json.dumps(value)
        _store_statistics(self.temporary)
        with open(self.temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(self.temporary, self.path)


def _store_statistics(path: Path) -> None:
    dataset = open_dataset(path)
    statistics = {name: dataset.statistics(name) for name in dataset.columns}
    with h5py.File(path, "r+", libver="latest") as file:
        file.attrs["fingerprint"] = json.dumps(dataset.fingerprint)
        for name, (mean, std) in statistics.items():
            file[name].attrs["mean"] = mean
            file[name].attrs["std"] = std
