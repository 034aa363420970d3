"""Loading of safetensors files, which hold named tensors and no code."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def load_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Named tensors that `safetensors.torch.save_file` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return load_file(path, device=device)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and `hiwm train` writes it again") from error
