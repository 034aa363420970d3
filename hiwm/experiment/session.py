"""The processes and the lock of a command, and the state of the code that runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import torch

import hiwm
from hiwm.config import Config, ConfigError
from hiwm.disk import naming_file
from hiwm.files import remove_leftovers
from hiwm.locks import locked
from hiwm.training.distributed import Processes, barrier, start_processes
from hiwm.training.fingerprint import fingerprint

Result = TypeVar("Result")

SMALL = ("hiwm.levels.encoders.identity.", "hiwm.levels.encoders.mlp.")  # encoders of numbers
THREADS = torch.get_num_threads()  # torch's choice


def start(config: Config) -> Processes:
    """Set the number of threads and join the other processes.

    By default, one thread for networks over numbers: two are hardly faster alone, and slower when other jobs run
    (tests/benchmarks/bench_busy.py).
    """
    processes = start_processes(config.device)
    if config.threads is not None or ("OMP_NUM_THREADS" not in os.environ and processes.device.type == "cpu"):
        torch.set_num_threads(config.threads or (1 if _is_small(config.levels.get("level0")) else THREADS))
    return processes


def _is_small(level: Any) -> bool:
    """Whether the encoder of a level, as in the config, is one of `SMALL`; a config that is wrong is explained later."""
    encoder = level.get("encoder") if isinstance(level, Mapping) else None
    return isinstance(encoder, Mapping) and str(encoder.get("_target_")).startswith(SMALL)


def one_process(command: str) -> None:
    """Raise a ConfigError if a command other than train and evaluate was started in several processes."""
    if (number := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise ConfigError(
            f"hiwm {command} was started in {number} processes; expected one. Only `hiwm train` and `hiwm evaluate` run under torchrun"
        )


def exclusive(verb: Callable[[Config], Result]) -> Callable[[Config], Result]:
    """A verb that waits while another command uses the folder of the experiment."""

    @wraps(verb)
    def run(config: Config) -> Result:
        if "WORLD_SIZE" in os.environ:
            start(config)  # so that the others can wait for the process that waits for the lock
        main = os.environ.get("RANK", "0") == "0"
        with locked(config.folder) if main else nullcontext():
            if main:
                for folder in (config.folder, config.folder / "heads"):
                    remove_leftovers(folder)
            barrier()
            with naming_file(config.folder):
                return verb(config)

    return run


def commit() -> str:
    """The commit of the code that runs, with "+" if files differ from it; "" if no repository holds the code."""
    package = Path(hiwm.__file__).parent
    git = ["git", "-C", str(package)]
    try:
        # hiwm may be installed within a repository of other code
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout else "")


def code_fingerprint() -> str:
    """The fingerprint of hiwm's own source files, committed or not."""
    package = Path(hiwm.__file__).parent
    folders = [package, *(path for path in package.iterdir() if path.is_dir())]  # some are links, which a glob skips
    paths = {path for folder in folders for path in folder.rglob("*.py")}
    return fingerprint([[str(path.relative_to(package)), path.read_text()] for path in sorted(paths)])
