"""The HDF5 trajectory store, in the layout of stable-worldmodel.

Each column (`action`, `state`, `pixels`, ...) is one flat dataset with one row per step, episode after episode. Two index
columns give the length (`ep_len`) and the first row (`ep_offset`) of each episode. Row t holds the observation at time t and
the action taken there; the action of the last row of an episode is never executed. Columns are contiguous and uncompressed,
so they are read as a memory map at their offset in the file. `hiwm.data.hdf5` reads files of other writers too.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hiwm.data.columns import BLOCK_BYTES, DatasetError
from hiwm.data.hdf5 import INDEX, PLAIN, read_hdf5
from hiwm.data.importers import recognise
from hiwm.data.importers.ogbench_npz import read_npz
from hiwm.data.trajectories import Trajectories
from hiwm.disk import sync

SPARE_BYTES = 4 << 20  # of HDF5's own, beyond the columns
LENGTH = re.compile(rb"[0-9]{1,18}\n")  # of an episode, in the index of an interrupted writer


def open_dataset(path: str | Path) -> Trajectories:
    """Open an HDF5 trajectory file, or an official OGBench `.npz`. Columns are read when they are asked for.

    Raises:
        DatasetError: the file is missing, truncated, not a trajectory file, or leads to other files.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(
            f"there is no dataset at {path} (dataset.path). `hiwm collect` makes one if the config names an environment"
        )
    try:
        if not path.is_file():
            raise DatasetError(f"{path} is not a regular file; expected an HDF5 trajectory file or an OGBench .npz")
        return read_npz(path) if path.suffix == ".npz" else read_hdf5(path)
    except DatasetError as error:
        if (name := recognise(path)) is None:
            raise
        raise DatasetError(
            f"{path} is a {name} dataset; expected a trajectory file. Run `hiwm data convert {path} {path.name}-hiwm.h5` first"
        ) from error


class Writer:
    """Writes episodes of any length; the file appears under its name only when it is complete.

    Rows are appended to one plain file per column. At the end of the `with` block they are copied into contiguous HDF5
    datasets.

    Args:
        path: the `.h5` file to write.
        metadata: facts stored as JSON attributes, such as the environment and the collection config.
        resume: start with the complete episodes of an earlier writer that an error or a kill interrupted, and keep those
            of this one likewise; `ep_len` says how many there are. The metadata must be the same.

    Raises:
        DatasetError: on entry, if another process writes the file, or if the episodes to resume have other metadata.
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
        self.index: Any = self.stack.enter_context(_open_part(self.parts / "ep_len", "a+b"))  # no column has this name
        try:
            fcntl.flock(self.index, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends
            if self.resume:
                self._restore()
            else:
                self.index.truncate(0)
        except BaseException as error:
            self.stack.close()
            if isinstance(error, BlockingIOError):
                raise DatasetError(f"{self.path}: another process writes this file") from error
            raise
        return self

    def _restore(self) -> None:
        """Take over the complete episodes of an interrupted writer and cut off an incomplete last one."""
        self.index.seek(0)
        lines = [line + b"\n" for line in self.index.read().split(b"\n")[:-1]]
        if lines:
            found = self._header(lines[0])
            if found["metadata"] != json.loads(json.dumps(self.metadata)):
                raise DatasetError(
                    f"{self.parts} holds {len(lines) - 1} episodes with the metadata {found['metadata']}; expected "
                    f"{self.metadata}. Give another path or remove the folder"
                )
            self.columns = found["columns"]
            self._open()
            row = {name: kind.itemsize * math.prod(shape) for name, (shape, kind) in self.columns.items()}
            sizes = {name: os.fstat(file.fileno()).st_size for name, file in self.files.items()}
            # a column of zero width tells no number of rows; where all are, no work is lost
            rows = min((sizes[name] // size for name, size in row.items() if size), default=0)
            self.ep_len = _whole_episodes(lines[1:], rows)
            for name, size in row.items():
                self.files[name].truncate(size * sum(self.ep_len))
        self.index.truncate(sum(map(len, lines[: 1 + len(self.ep_len)])))

    def _header(self, line: bytes) -> dict[str, Any]:
        """The first line of the index; the folder may come from elsewhere, so nothing in it is believed."""
        try:
            found = json.loads(line)
            columns = {name: (tuple(shape), np.dtype(kind)) for name, (shape, kind) in found["columns"].items()}
            sizes = [n for shape, _ in columns.values() for n in shape]
            if not columns or not all(isinstance(n, int) and n >= 0 for n in sizes):
                raise ValueError(f"{len(columns)} columns with a shape of {sizes}")
            _check_layout(self.parts, columns)
            return {"metadata": found["metadata"], "columns": columns}
        except Exception as error:  # whatever json and numpy make of a damaged line
            raise DatasetError(
                f"{self.parts} is not what an interrupted command left ({error}). Remove the folder"
            ) from error

    def _open(self) -> None:
        self.files = {name: self.stack.enter_context(_open_part(self.parts / name, "ab")) for name in self.columns}

    def append(self, episode: Mapping[str, np.ndarray]) -> None:
        """Add one episode: column name -> (steps, ...). Columns, shapes and types must be the same in all episodes."""
        layout = {name: (rows.shape[1:], rows.dtype) for name, rows in episode.items()}
        if not self.columns:
            _check_layout(self.path, layout)
            self.columns = layout
            self._open()
            for file in self.files.values():
                file.truncate(0)  # may hold rows of an earlier writer
            columns = {name: (shape, kind.str) for name, (shape, kind) in layout.items()}
            self._note(json.dumps({"metadata": self.metadata, "columns": columns}))
        lengths = {len(rows) for rows in episode.values()}
        if layout != self.columns or len(lengths) != 1:
            raise DatasetError(
                f"{self.path}: an episode has the columns {layout} and the lengths {lengths}; expected one length and {self.columns}"
            )
        for name, rows in episode.items():
            self.files[name].write(np.ascontiguousarray(rows).tobytes())  # `tofile` does not say that the disk is full
            self.files[name].flush()
        self.ep_len.append(lengths.pop())
        self._note(str(self.ep_len[-1]))  # written last: an episode counts once all its rows are there

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
        ep_len = np.asarray(self.ep_len, np.int64)
        _reserve(self.temporary, sum((self.parts / name).stat().st_size for name in self.columns))
        with h5py.File(self.temporary, "w", libver="latest") as file:
            file["ep_len"] = ep_len.astype(np.int32 if ep_len.max() < 2**31 else np.int64)
            file["ep_offset"] = np.cumsum(ep_len) - ep_len
            for name, (shape, dtype) in self.columns.items():
                column = file.create_dataset(name, (int(ep_len.sum()), *shape), dtype)
                row = math.prod(shape)
                step = max(1, BLOCK_BYTES // max(1, row * dtype.itemsize))
                with open(self.parts / name, "rb") as part:
                    for start in range(0, len(column) if row else 0, step):
                        rows = np.fromfile(part, dtype, min(step, len(column) - start) * row)
                        column[start : start + step] = rows.reshape(-1, *shape)
            for key, value in self.metadata.items():
                file.attrs[key] = json.dumps(value)
        _store_statistics(self.temporary, self.path)
        sync(self.temporary)
        os.replace(self.temporary, self.path)


def _whole_episodes(lines: list[bytes], rows: int) -> list[int]:
    """Lengths of the episodes, up to the first that is damaged or whose rows are not all on the disk."""
    lengths: list[int] = []
    for line in lines:
        if not LENGTH.fullmatch(line) or int(line) > rows:
            break
        lengths.append(int(line))
        rows -= lengths[-1]
    return lengths


def _check_layout(where: Path, columns: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> None:
    """Refuse names that could leave a folder or that mean something else, and types that hold pointers."""
    for name, (_, dtype) in columns.items():
        if not PLAIN.fullmatch(name) or name in INDEX or name.endswith("."):
            raise DatasetError(
                f"{where}: a column is named {name!r}; expected at most 100 letters, digits and {'._-'!r}, and none of {INDEX}"
            )
        if dtype.kind not in "iufb" or dtype.subdtype is not None:
            raise DatasetError(f"{where}: column {name!r} has the type {dtype}; expected numbers")


def _open_part(path: Path, mode: str) -> Any:
    """Open a file of the parts folder itself, never what a link there leads to."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


def _reserve(path: Path, size: int) -> None:
    """Refuse to start a file that the disk cannot hold, because HDF5 crashes when the disk is full."""
    try:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size + SPARE_BYTES)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno,
            f"the disk is full: the dataset needs {size / 1e9:.2f} GB more. Free some space and run the same command; the "
            "episodes are kept",
            str(path.with_suffix(".h5")),
        ) from error
    finally:
        path.unlink(missing_ok=True)


def _store_statistics(path: Path, final: Path) -> None:
    dataset = open_dataset(path)
    dataset.path = final  # for messages
    statistics = {name: dataset.statistics(name) for name in dataset.columns}
    with h5py.File(path, "r+", libver="latest") as file:
        file.attrs["fingerprint"] = json.dumps(dataset.fingerprint)
        for name, (mean, std) in statistics.items():
            file[name].attrs["mean"] = mean
            file[name].attrs["std"] = std
