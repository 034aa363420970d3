"""Locks between processes: one command at a time changes a folder or makes a file."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from hiwm.console import say

SECONDS_BETWEEN_TRIES = 0.2
UNSUPPORTED = {errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK}  # answers of network file systems without locks


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder; wait, and say so once, while another process holds it.

    The lock is `<path>.lock`, which names its holder. It ends with the process, however that ends.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _acquire(path.with_name(f"{path.name}.lock"), path)
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} ({' '.join(sys.argv)[:100]})".encode())
        yield
    finally:
        with suppress(FileNotFoundError):
            os.unlink(file.name)
        file.close()


def _acquire(lock: Path, path: Path) -> IO[bytes]:
    waiting = False
    while True:
        file = open(lock, "a+b", buffering=0)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(file, lock):  # the last holder has not removed it meanwhile
                return file
        except BlockingIOError:
            if not waiting:
                file.seek(0)
                holder = file.read().decode(errors="replace") or "another process"
                say(f"waiting for {holder}, which uses {path}")
            waiting = True
        except OSError as error:
            if error.errno in UNSUPPORTED:
                say(f"{path.parent} is on a file system without locks: run one command at a time on {path.name}")
                return file
            file.close()
            raise
        file.close()
        if waiting:
            time.sleep(SECONDS_BETWEEN_TRIES)


def _is_same(file: IO[bytes], path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file or folder."""
    path = path.resolve()
    try:
        with open(path.with_name(f"{path.name}.lock"), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, or a file system without locks
        return False
    return False
