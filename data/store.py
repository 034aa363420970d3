"""The HDF5 trajectory store, in the layout of stable-worldmodel.

Each column (`action`, `state`, `pixels`, ...) is one flat dataset with one row per step, episode after episode. Two index
columns give the length (`ep_len`) and the first row (`ep_offset`) of each episode. Row t holds the observation at time t and
the action taken there; the action of the last row of an episode is never executed. Columns are contiguous and uncompressed,
so they are read as a memory map at their offset in the file. Chunked files of other writers are read through h5py.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hiwm.data.importers.ogbench_npz import read_npz
from hiwm.data.trajectories import DatasetError, Trajectories

INDEX = ("ep_len", "ep_offset")


def open_dataset(path: str | Path) -> Trajectories:
    """Open an HDF5 trajectory file, or an official OGBench `.npz`.

    Raises:
        DatasetError: the file is missing, truncated, or not a trajectory file.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(
            f"there is no dataset at {path} (dataset.path). `hiwm collect` makes one if the config names an environment"
        )
    if path.suffix == ".npz":
        return read_npz(path)
    try:
        with h5py.File(path, "r") as opened:
            file: Any = opened  # the columns are Datasets, but h5py's types also allow groups
            missing = [name for name in INDEX if name not in file]
            if missing:
                raise DatasetError(f"{path} is not a trajectory file: it has no {' and no '.join(missing)}")
            columns = {name: _column(path, file[name]) for name in file if name not in INDEX}
            metadata = {key: _plain(value) for key, value in file.attrs.items() if isinstance(value, str)}
            return Trajectories(path, columns, file["ep_len"][:], file["ep_offset"][:], metadata)
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{path} cannot be read as HDF5 and may be truncated ({error})") from error


def _plain(attribute: str) -> Any:
    try:
        return json.loads(attribute)
    except json.JSONDecodeError:  # plain text of another writer
        return attribute


def _column(path: Path, dataset: h5py.Dataset | h5py.Group) -> np.ndarray:
    if not isinstance(dataset, h5py.Dataset):
        raise DatasetError(f"{path}: {dataset.name!r} is a group; expected one flat dataset per column")
    offset = dataset.id.get_offset()
    if offset is None or dataset.size == 0:  # chunked or compressed, from another writer
        return dataset[:]
    if offset + dataset.nbytes > path.stat().st_size:
        raise DatasetError(f"{path} is truncated: column {dataset.name!r} ends after the end of the file")
    return np.memmap(path, mode="r", dtype=dataset.dtype, shape=dataset.shape, offset=offset)


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
        self.index: Any = self.stack.enter_context((self.parts / "ep_len").open("a+b"))  # no column can have this name
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
        lines = [line for line in self.index.read().splitlines(keepends=True) if line.endswith(b"\n")]
        if lines:
            found = json.loads(lines[0])
            if found["metadata"] != json.loads(json.dumps(self.metadata)):
                raise DatasetError(
                    f"{self.parts} holds {len(lines) - 1} episodes with the metadata {found['metadata']}; expected "
                    f"{self.metadata}. Give another path or remove the folder"
                )
            self.columns = {name: (tuple(shape), np.dtype(kind)) for name, (shape, kind) in found["columns"].items()}
            self.ep_len = [int(line) for line in lines[1:]]
            self._open()
            row = {name: kind.itemsize * math.prod(shape) for name, (shape, kind) in self.columns.items()}
            rows = min(os.fstat(self.files[name].fileno()).st_size // size for name, size in row.items())
            while sum(self.ep_len) > rows:  # the machine crashed before all rows were on the disk
                self.ep_len.pop()
            for name, size in row.items():
                self.files[name].truncate(size * sum(self.ep_len))
        self.index.truncate(sum(map(len, lines[: 1 + len(self.ep_len)])))

    def _open(self) -> None:
        self.files = {name: self.stack.enter_context((self.parts / name).open("ab")) for name in self.columns}

    def append(self, episode: Mapping[str, np.ndarray]) -> None:
        """Add one episode: column name -> (steps, ...). Columns, shapes and types must be the same in all episodes."""
        layout = {name: (rows.shape[1:], rows.dtype) for name, rows in episode.items()}
        if not self.columns:
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
            np.ascontiguousarray(rows).tofile(self.files[name])
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
