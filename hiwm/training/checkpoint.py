"""Where a level's training stands, so that killed and resumed equals never killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write under a temporary name, sync, rename: a crash leaves the old file or the new one, whole."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The state saved there, tensors and plain values only; None when there is none."""
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None
