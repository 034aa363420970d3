"""Where trained levels lie: one folder for all experiments, and in it one folder per level, named by its fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hiwm.files import LEVELS, remove_leftovers, root_of
from hiwm.locks import locked
from hiwm.training.distributed import Processes, barrier


def levels_of(folder: Path) -> Path:
    """The folder of all levels, from that of an experiment's results: `<root>/<name>` or `<root>/<name>/<run>`."""
    return root_of(folder, [LEVELS]) / LEVELS


@contextmanager
def held(homes: Sequence[Path], processes: Processes) -> Iterator[None]:
    """Hold levels that other commands may share: a second command waits, and then reuses them."""
    with ExitStack() as stack:
        for home in homes if processes.is_main else []:
            stack.enter_context(locked(home))
            home.mkdir(parents=True, exist_ok=True)
            remove_leftovers(home)
        barrier()
        yield
