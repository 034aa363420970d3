"""Signals that end a command: each is an exception, which training puts off to the next step to save a checkpoint first."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

# SLURM sends SIGTERM, or what `--signal` names, before it takes the machine away; a terminal that closes sends SIGHUP
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
SECONDS_TO_SAVE = 30.0  # after the launcher has died


class Stopped(KeyboardInterrupt):
    """A signal has ended the command.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name}")
        self.number = number

    @property
    def status(self) -> int:
        """The exit status, as a shell reports it: 130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1, 129 for SIGHUP."""
        return 128 + self.number


class Request:
    """The signal that asks to stop; 0 if there is none.

    Args:
        number: of the signal.
    """

    number = 0


@contextmanager
def raising() -> Iterator[None]:
    """Within, a signal raises `Stopped`."""

    def stop(number: int, _: Any) -> None:
        raise Stopped(number)

    with _handled_by(stop):
        yield


@contextmanager
def deferring() -> Iterator[Request]:
    """Within, a signal is noted in the request, and raises `Stopped` at the end. A second Ctrl-C raises at once."""
    request = Request()

    def note(number: int, _: Any) -> None:
        if number == request.number == signal.SIGINT and "WORLD_SIZE" not in os.environ:  # torchrun repeats it
            raise Stopped(number)
        request.number = number

    with _handled_by(note):
        yield request
    if request.number:
        raise Stopped(request.number)


@contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Within, the handler takes the signals that are not ignored; only the main thread can have one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@cache
def end_with_parent() -> None:
    """Let this process stop as SIGTERM would once its parent is dead, and end it if it does not stop by itself."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    orphan = parent == 1 and not _launches_processes(parent)  # the parent died before anybody watched
    while not orphan and os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_SAVE)
    os._exit(128 + signal.SIGTERM)


def _launches_processes(pid: int) -> bool:
    """Whether a process is torchrun, which is number 1 in some containers; True if nobody can tell."""
    try:
        return b"torch" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
