"""Reads HDF5 files of other writers: only bytes of the file itself, only numbers, and only on demand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hiwm.data.columns import CompressedColumn, DatasetError, FramedColumn
from hiwm.data.scan import FileScan
from hiwm.data.trajectories import Trajectories, in_order

INDEX = ("ep_len", "ep_offset")
PLAIN = re.compile(r"\w[\w.\- ]{0,99}")  # names of columns are also names of files and keys of a configuration
MOST_EPISODES = 100_000_000
DEEPEST = 8  # groups in groups
PLUGIN_FILTERS = 256  # numbers of filters from here on are not HDF5's own


class _Unusable(Exception):
    """A column that cannot be read, in a file that is intact; only access to the column raises the error."""


def read_hdf5(path: Path) -> Trajectories:
    """Open a file in the layout of stable-worldmodel; see `hiwm.data.store`.

    Columns in groups get a dotted name: `observation/state` is the column `observation.state`.

    Raises:
        DatasetError: the file is damaged, is not a trajectory file, or leads to other files.
    """
    try:
        with h5py.File(path, "r") as file:
            found = dict(flatten(path, file))
            missing = [name for name in INDEX if name not in found]
            if missing:
                raise DatasetError(f"{path} is not a trajectory file: it has no {' and no '.join(missing)}")
            index = [_index(path, found.pop(name)) for name in INDEX]
            columns, unusable = {}, {}
            for name, dataset in found.items():
                if reason := why_unusable(name, dataset):
                    unusable[name] = reason
                    continue
                try:
                    columns[name] = open_column(path, dataset)
                except _Unusable as error:
                    unusable[name] = str(error)
            return in_order(path, columns, index[0], index[1], metadata_of(file), unusable, FileScan(path))
    except DatasetError:
        raise
    except Exception as error:  # whatever h5py and numpy make of a damaged file
        raise DatasetError(f"{path} cannot be read as HDF5 and may be truncated or damaged ({error})") from error


def flatten(path: Path, group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """All datasets below a group with dotted names; refuses links to other files, by name."""
    return _flatten(path, group, "", 0, set())


def _flatten(
    path: Path, group: h5py.Group, prefix: str, depth: int, visited: set[h5py.Group]
) -> Iterator[tuple[str, h5py.Dataset]]:
    if group in visited:  # links in layers would make a huge number of columns of a small file
        raise DatasetError(
            f"{path}: {prefix[:-1]!r} is a group that has another name too; expected one name for each group. Remove the link"
        )
    visited.add(group)
    if depth > DEEPEST:
        raise DatasetError(
            f"{path}: {group.name!r} lies in more than {DEEPEST} groups; expected columns nearer to the root"
        )
    for key in map(str, group):
        name = prefix + key
        _refuse_links(path, group, key, name)
        found: Any = group.get(key)
        if found is None:
            raise DatasetError(f"{path}: {name!r} is a link that leads nowhere. Remove it")
        if isinstance(found, h5py.Group):
            yield from _flatten(path, found, f"{name}.", depth + 1, visited)
        elif isinstance(found, h5py.Dataset):
            _refuse_outside(path, found, name)
            yield name, found


def _refuse_links(path: Path, group: h5py.Group, key: str, name: str, depth: int = 0) -> None:
    """Refuse an external link, also behind links of this file."""
    link: Any = group.get(key, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise DatasetError(
            f"{path}: {name!r} is a link to another file, {link.filename!r}; expected a dataset of this file"
        )
    if isinstance(link, h5py.SoftLink):
        here: Any = group.file if link.path.startswith("/") else group
        for part in filter(None, link.path.split("/")):
            if (
                depth > DEEPEST
                or not isinstance(here, h5py.Group)
                or here.get(part, getlink=True, default=None) is None
            ):
                raise DatasetError(f"{path}: {name!r} is a link that leads nowhere. Remove it")
            _refuse_links(path, here, part, name, depth + 1)
            here = here[part]


def _refuse_outside(path: Path, dataset: h5py.Dataset, name: str) -> None:
    """Refuse bytes of other files: external storage, and virtual datasets of other files."""
    layer = [dataset]
    for _ in range(DEEPEST + 2):
        # each source once, because virtual datasets in layers can lead to one in millions of ways
        layer = list({source for each in layer for source in _sources(path, each, name)})
        if not layer:
            return
    raise DatasetError(  # also one that leads back to itself
        f"{path}: {name!r} leads through more than {DEEPEST} other virtual datasets; expected a dataset nearer to its bytes"
    )


def _sources(path: Path, dataset: h5py.Dataset, name: str) -> Iterator[h5py.Dataset]:
    """The datasets that a virtual dataset consists of; none for others. Refuses what is in other files."""
    if dataset.external:
        raise DatasetError(
            f"{path}: the bytes of {name!r} are in another file, {dataset.external[0][0]!r}; expected a dataset of this file"
        )
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        if source.file_name != ".":
            raise DatasetError(
                f"{path}: {name!r} is a virtual dataset of another file, {source.file_name!r}; expected a dataset of this file"
            )
        group, _, key = source.dset_name.rpartition("/")
        parent: Any = dataset.file[group or "/"] if _walkable(path, dataset.file, group, name) else None
        if parent is None or key not in parent:
            raise DatasetError(f"{path}: {name!r} is a virtual dataset whose source {source.dset_name!r} is not there")
        _refuse_links(path, parent, key, name)
        yield parent[key]


def _walkable(path: Path, file: h5py.File, group: str, name: str) -> bool:
    here: Any = file
    for part in filter(None, group.split("/")):
        if not isinstance(here, h5py.Group) or part not in here:
            return False
        _refuse_links(path, here, part, name)
        here = here[part]
    return True


def why_unusable(name: str, dataset: h5py.Dataset) -> str:
    """Why a dataset is not a column of numbers; "" if it is one. Asks for the type before anything is read."""
    if not PLAIN.fullmatch(name) or name.endswith("."):
        return f"has a name that is not plain; expected at most 100 letters, digits and {'._-'!r}"
    try:
        dtype = dataset.dtype
    except TypeError as error:
        return f"has a type that numpy does not know ({error}); expected numbers"
    if dtype.hasobject or dtype.kind in "SU" or h5py.check_string_dtype(dtype) is not None:
        return "holds text or references; expected numbers"
    if dtype.kind not in "iufb" or dtype.subdtype is not None:
        return f"has the type {dtype}; expected numbers"
    if not dataset.shape:
        return "is a single value; expected one row per step"
    return ""


def open_column(path: Path, dataset: h5py.Dataset) -> Any:
    """A column whose rows are read when they are asked for: memory-mapped where its bytes lie in the file as numpy needs them."""
    shape, dtype, name = dataset.shape, dataset.dtype, str(dataset.name)
    size = path.stat().st_size
    as_stored = dataset.id.get_type().equal(h5py.h5t.py_create(dtype, logical=True))
    if dtype.kind == "b":  # stored as bytes, which in a damaged file are not only 0 and 1
        dtype = np.dtype(np.uint8)
    if dataset.size == 0:
        return np.empty(shape, dtype) if 0 in shape[:1] or len(shape) > 1 else dataset[()]
    offset = dataset.id.get_offset()
    if dataset.chunks is None:
        if offset is not None and offset + dataset.id.get_storage_size() > size:
            raise DatasetError(f"{path} is truncated: column {dataset.name!r} ends after the end of the file")
        if offset is not None and as_stored:
            return np.memmap(path, mode="r", dtype=dtype, shape=shape, offset=offset)
        if offset is None and dataset.id.get_storage_size() == 0 and not dataset.is_virtual:
            raise _Unusable(f"was never written; expected its {shape[0]} rows")
        return CompressedColumn(path, name, shape, dtype, 1024)
    chunk_rows, whole_rows = dataset.chunks[0], dataset.chunks[1:] == shape[1:]
    filters = dataset.id.get_create_plist().get_nfilters()
    _require_filters(dataset, filters)
    offsets = _chunk_offsets(path, dataset, size)
    if as_stored and whole_rows and not filters:
        return FramedColumn(path, shape, dtype, offsets, chunk_rows)
    return CompressedColumn(path, name, shape, dtype, chunk_rows)


def _chunk_offsets(path: Path, dataset: h5py.Dataset, size: int) -> np.ndarray:
    """Where each chunk lies in the file, in the order of their rows; refuses chunks that were never written."""
    there = -(-np.asarray(dataset.shape) // np.asarray(dataset.chunks))
    expected = int(np.prod(there))
    written = dataset.id.get_num_chunks()
    if written < expected:  # also a small file that claims a huge column
        raise _Unusable(f"is incomplete: {expected - written} of {expected} chunks were never written")
    offsets = np.zeros(expected, np.int64)
    strides = np.append(np.cumprod(there[:0:-1])[::-1], 1)

    def note(chunk: Any) -> None:
        number = int((np.asarray(chunk.chunk_offset) // dataset.chunks) @ strides)
        if number < expected:
            offsets[number] = chunk.byte_offset
            if chunk.byte_offset + chunk.size > size:
                raise DatasetError(f"{path} is truncated: column {dataset.name!r} ends after the end of the file")

    dataset.id.chunk_iter(note)
    return offsets


def _require_filters(dataset: h5py.Dataset, number: int) -> None:
    properties = dataset.id.get_create_plist()
    for i in range(number):
        code, _, _, label = properties.get_filter(i)
        if code >= PLUGIN_FILTERS:
            import hdf5plugin  # noqa: F401 - brings Blosc, Zstandard, LZ4 and others to h5py; slow to import
        if not h5py.h5z.filter_avail(code):
            raise _Unusable(
                f"is compressed with filter {code} ({label.decode(errors='replace')}); expected one that HDF5 or hdf5plugin knows"
            )


def _index(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    if dataset.dtype.kind not in "iuf" or dataset.size is None or dataset.size > MOST_EPISODES:
        raise DatasetError(
            f"{path}: {dataset.name!r} is an array {dataset.shape} of {dataset.dtype}; expected one whole number per episode"
        )
    return dataset[()]


def metadata_of(file: h5py.File) -> dict[str, Any]:
    """Text attributes of the file, read as JSON where they are JSON."""
    found = {}
    for key in file.attrs:
        try:
            value = file.attrs[key]
        except (OSError, TypeError, ValueError, RuntimeError):  # a type that h5py cannot read says nothing to hiwm
            continue
        if isinstance(value, str):
            found[key] = _plain(value)
    # other writers use these names for text of their own
    return {k: v for k, v in found.items() if k not in ("environment", "collection") or isinstance(v, dict)}


def _plain(attribute: str) -> Any:
    try:
        return json.loads(attribute)
    except (json.JSONDecodeError, RecursionError):  # plain text of another writer
        return attribute
