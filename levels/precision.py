"""Half precision on processors that support it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def half_precision(device: torch.device) -> AbstractContextManager:
    """An autocast to bfloat16, or nothing on devices without native support for it."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.backends.mkldnn.is_available()
        native = native and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # torch has no public name for this
    return torch.autocast(device.type, torch.bfloat16) if native else nullcontext()
