"""The files of a level: a checkpoint during its training, then its weights and metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from hiwm.files import replacing
from hiwm.levels.level import Level
from hiwm.tensors import load_tensors

log = logging.getLogger("hiwm")

CHECKPOINT, WEIGHTS, METRICS, LATENTS = "checkpoint.pt", "level.safetensors", "metrics.json", "latents.h5"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint, so that a crash or a full disk leaves either the old one or the new one, complete."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The saved state, which holds only tensors and plain values; None if there is no file."""
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


def is_trained(home: Path) -> bool:
    """Whether `home` holds a level whose training is finished. One with weights that are not finite is not."""
    if not ((home / WEIGHTS).exists() and (home / METRICS).exists()):
        return False
    if all(torch.isfinite(value).all() for value in load_tensors(home / WEIGHTS).values()):
        return True
    log.warning("%s holds weights that are not finite; the level is trained anew", home / WEIGHTS)
    return False


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
    """Write the weights, then the metrics, and remove the checkpoint, and the latents of weights that were there before."""
    (home / LATENTS).unlink(missing_ok=True)
    save_weights(level, home / WEIGHTS)
    save_metrics(metrics, home)
    (home / CHECKPOINT).unlink(missing_ok=True)


def save_weights(module: nn.Module, path: Path) -> None:
    """Write the weights: all or none."""
    tensors = {name: value.contiguous().cpu() for name, value in module.state_dict().items()}
    with replacing(path, sum(value.nbytes for value in tensors.values())) as temporary:
        save_file(tensors, temporary)


def save_metrics(metrics: Mapping[str, float], home: Path) -> None:
    """Write the metrics: all or none."""
    with replacing(home / METRICS) as temporary:
        temporary.write_text(json.dumps(metrics, indent=1))
