"""The files of a level: a checkpoint during its training, then its weights and metrics."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from hiwm.levels.level import Level
from hiwm.tensors import load_tensors

CHECKPOINT, WEIGHTS, METRICS, LATENTS = "checkpoint.pt", "level.safetensors", "metrics.json", "latents.h5"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write under a temporary name, sync, rename, so that a crash leaves either the old file or the new one, complete."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The saved state, which holds only tensors and plain values; None if there is no file."""
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


def is_trained(home: Path) -> bool:
    """Whether `home` holds a level whose training is finished."""
    return (home / WEIGHTS).exists() and (home / METRICS).exists()


def forget_trained(home: Path) -> None:
    """Remove a finished level and its latents; a checkpoint stays."""
    for name in (METRICS, WEIGHTS, LATENTS):
        (home / name).unlink(missing_ok=True)


def load_trained(level: Level, home: Path) -> dict[str, float] | None:
    """Put the weights in `home` into the level and return its last validation metrics; None if its training is not finished."""
    if not is_trained(home):
        return None
    level.load_state_dict(load_tensors(home / WEIGHTS))
    return json.loads((home / METRICS).read_text())


def save_trained(level: Level, metrics: Mapping[str, float], home: Path) -> None:
    """Write the weights, then the metrics, and remove the checkpoint."""
    save_weights(level, home / WEIGHTS)
    save_metrics(metrics, home)
    (home / CHECKPOINT).unlink(missing_ok=True)


def save_weights(module: nn.Module, path: Path) -> None:
    """Write the weights atomically."""
    temporary = path.with_suffix(".tmp")
    save_file({name: value.contiguous().cpu() for name, value in module.state_dict().items()}, temporary)
    temporary.replace(path)


def save_metrics(metrics: Mapping[str, float], home: Path) -> None:
    """Write the metrics atomically."""
    temporary = home / "metrics.tmp"
    temporary.write_text(json.dumps(metrics, indent=1))
    temporary.replace(home / METRICS)
