"""One pass over every byte of a column: its digest, and where it is NaN or infinite. The result is cached for each file."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hiwm.data.columns import blocks, file_identity

VERSION = 1  # of the scan; part of the cache's key
SETTLED = 2.0  # seconds after its last change from which a file's times tell that it has not changed again


def scan_column(column: Any, ep_len: np.ndarray, ep_offset: np.ndarray) -> dict[str, Any]:
    """Read a whole column, block by block.

    Args:
        column: (N, ...), as stored.
        ep_len: steps of each episode.
        ep_offset: first row of each episode.

    Returns:
        `digest` of every byte; `row`, the first row of an episode that is not finite, its last row excluded; `last`, the
        first last row of an episode that is not finite. Both are None where there is none.
    """
    digest = xxhash.xxh3_128(f"{column.shape}{column.dtype.str}".encode())
    found: dict[str, int | None] = {"row": None, "last": None}
    ends, start = np.asarray(ep_offset + ep_len - 1), 0
    for block in blocks(column):
        digest.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        if column.dtype.kind == "f" and None in found.values():
            with np.errstate(over="ignore"):  # models see float32, in which larger numbers are infinite
                finite = np.isfinite(np.asarray(block, np.float32).reshape(len(block), -1)).all(1)
            for row in (start + np.flatnonzero(~finite)).tolist():
                kind = "last" if ends[min(np.searchsorted(ends, row), len(ends) - 1)] == row else "row"
                if found[kind] is None and ep_offset[0] <= row <= ends[-1]:
                    found[kind] = row
                if None not in found.values():
                    break
        start += len(block)
    return {"digest": digest.hexdigest(), **found}


def combine(ep_len: np.ndarray, scans: Mapping[str, Mapping[str, Any]]) -> str:
    """Sixteen hex digits for the episodes and the digests of all columns."""
    digest = hashlib.sha256(np.asarray(ep_len, np.int64).tobytes())
    for name in sorted(scans):
        digest.update(f"{name}\0{scans[name]['digest']}\0".encode())
    return digest.hexdigest()[:16]


class FileScan:
    """Scans of the columns of one file, kept in the user's cache until the file changes.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.identity = file_identity(self.path)
        self.columns: Mapping[str, Any] = {}
        home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "hiwm" / "datasets"
        key = hashlib.sha256(json.dumps([VERSION, str(self.path), self.identity]).encode()).hexdigest()
        self.cache = home / f"{key[:32]}.json"

    def of(self, name: str, column: Any, ep_len: np.ndarray, ep_offset: np.ndarray) -> dict[str, Any]:
        """The scan of a column, from the cache if the column is the file's own and the file is unchanged."""
        if self.columns.get(name) is not column:
            return scan_column(column, ep_len, ep_offset)
        known = self._read()
        if name not in known:
            settled = time.time() - max(self.identity[2:]) / 1e9 > SETTLED
            known = {**known, name: scan_column(column, ep_len, ep_offset)}
            if settled and file_identity(self.path) == self.identity:
                self._write(known)
        return known[name]

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.cache.read_text())
            return {name: {key: scan[key] for key in ("digest", "row", "last")} for name, scan in found.items()}
        except (AttributeError, KeyError, OSError, TypeError, ValueError):  # there is none, or not a whole one
            return {}

    def _write(self, scans: Mapping[str, Any]) -> None:
        temporary = self.cache.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(scans))
            temporary.replace(self.cache)
        except OSError:  # a cache that cannot be written costs time only
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
