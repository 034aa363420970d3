"""Files that a crash or a full disk cannot spoil: whole files replace old ones, and logs grow by whole lines."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = {errno.ENOSPC, errno.EDQUOT}
SMALL = 1 << 20  # bytes; with less left on the disk, a failed write has filled it


@contextmanager
def replacing(path: Path, size: int = 0) -> Iterator[Path]:
    """A temporary path to write; at the end of the block the file is synced and takes the place of `path`.

    If the block fails, the temporary file is removed and `path` stays as it was. A process that is killed may leave the
    temporary file; the next writer of `path` replaces it.

    Args:
        path: the file to write.
        size: bytes that will be written, if they are known; too little space is then refused before anything is written.

    Raises:
        OSError: the file cannot be written; `filename` is `path`, also where a library has an error of its own.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise no_space(path, size)
    with naming_file(path, size):
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        except BaseException as error:
            full = _is_full(error, path)
            temporary.unlink(missing_ok=True)
            if full:
                raise no_space(path, size) from error
            raise


def sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming_file(path: Path, size: int = 0) -> Iterator[None]:
    """Name a file or folder in an error of the disk that names none, or only its temporary name."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, f"{path}.tmp"):
            raise
        if error.errno in FULL:
            raise no_space(path, size) from error
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def no_space(path: Path, needed: int = 0) -> OSError:
    """The error of a disk or quota that is full; says what is needed, in bytes, and what is free."""
    free = shutil.disk_usage(path.parent).free
    wanted = f"; it needs {_megabytes(needed)}" if needed else ""
    return OSError(
        errno.ENOSPC, f"No space left on the disk{wanted}, {_megabytes(free)} free. Earlier files are intact", str(path)
    )


def _is_full(error: BaseException, path: Path) -> bool:
    """Whether a write failed because the disk is full; torch and safetensors raise errors of their own."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return isinstance(error, Exception) and shutil.disk_usage(path.parent).free < SMALL


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def append_json(path: Path, record: Any) -> None:
    """Add one line of JSON to a log in one write. An incomplete last line, which a crash left, is cut off first."""
    line = (json.dumps(record) + "\n").encode()
    with naming_file(path), open(path, "a+b", buffering=0) as file:
        _cut_torn_line(file)
        written = file.write(line)
        if written != len(line):
            raise no_space(path)


def read_json_lines(path: Path) -> list[Any]:
    """The records of a log; lines that a crash has spoiled are left out. Empty if there is no file."""
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def cut_json_lines(path: Path, keep: Callable[[Any], bool]) -> None:
    """Remove the records of a log that are not to be kept; the file is replaced only if it changes."""
    records = read_json_lines(path)
    kept = [record for record in records if keep(record)]
    if len(kept) < len(records):
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))


def _cut_torn_line(file: Any) -> None:
    """Truncate a file after its last complete line."""
    end = file.seek(0, os.SEEK_END)
    start, block = end, b""
    while start and b"\n" not in block:
        start = max(0, start - 4096)
        file.seek(start)
        block = file.read(end - start)
    complete = start + block.rfind(b"\n") + 1
    if complete < end:
        file.truncate(complete)
