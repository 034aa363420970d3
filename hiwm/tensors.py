"""Loading of safetensors files, which hold named tensors and no code."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor


def load_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Named tensors that `safetensors.torch.save_file` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    return load_with_metadata(path, device)[0]


def load_with_metadata(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors, and the metadata that was written with them; errors as in `load_tensors`."""
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and `hiwm train` writes it again") from error
