"""The processes of a command, and the commit of the code that runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import torch

from hiwm.config import Config, ConfigError
from hiwm.training.distributed import Processes, start_processes


def start(config: Config) -> Processes:
    """Set the number of threads and join the other processes."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return start_processes(config.device)


def one_process(command: str) -> None:
    """Raise a ConfigError if a command other than train was started in several processes."""
    if (number := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise ConfigError(
            f"hiwm {command} was started in {number} processes; expected one. Only `hiwm train` runs under torchrun"
        )


def commit() -> str:
    """The commit of the code that runs, with "+" if files differ from it; "" outside a clone."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout else "")
