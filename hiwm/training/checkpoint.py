"""The files of a level: a checkpoint during its training, then its weights and metrics."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hiwm.disk import replacing
from hiwm.files import read_json, write_json
from hiwm.levels.level import Level
from hiwm.tensors import load_state, load_tensors, save_tensors

log = logging.getLogger("hiwm")

CHECKPOINT, WEIGHTS, METRICS, LATENTS = "checkpoint.pt", "level.safetensors", "metrics.json", "latents.h5"
DESCRIPTION = "level.yaml"  # what the level was made from, for people


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint, so that a crash or a full disk leaves either the old one or the new one, complete."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state saved there, tensors and plain values only, on the CPU; None when there is none.

    Modules and optimisers move what they load. AdamW's step counts must stay on the CPU, because it reads them at every step.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        with zipfile.ZipFile(path) as members:  # torch does not look at the checksums of the tensors
            if (damaged := members.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    except (ValueError, RuntimeError, LookupError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        fault = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged ({fault}); remove it, and training starts from step 0") from error
    return state


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
    """Put the weights in `home` into the level and return its last validation metrics; None if its training is not finished.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    if not is_trained(home):
        return None
    load_state(level, home / WEIGHTS)
    return load_metrics(home)


def load_metrics(home: Path) -> dict[str, float]:
    """The last validation of a level; errors as in `load_trained`."""
    metrics = read_json(home / METRICS)
    for name, value in metrics.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ValueError(
                f"{home / METRICS}: {name} is {value!r:.100}; expected a number. Remove the level's folder"
            )
    return metrics


def save_trained(level: Level, metrics: Mapping[str, float], home: Path) -> None:
    """Write the weights, then the metrics, and remove the checkpoint, and the latents of weights that were there before."""
    (home / LATENTS).unlink(missing_ok=True)
    save_tensors(home / WEIGHTS, level.state_dict())
    save_metrics(metrics, home)
    (home / CHECKPOINT).unlink(missing_ok=True)


def save_metrics(metrics: Mapping[str, float], home: Path) -> None:
    """Write the metrics: all or none."""
    write_json(home / METRICS, metrics)
