"""Half precision on processors that support it, and TF32 on GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn


def half_precision(device: torch.device) -> AbstractContextManager:
    """An autocast to bfloat16, or nothing on devices without native support for it."""
    return torch.autocast(device.type, torch.bfloat16) if _multiplies_bfloat16(device.type) else nullcontext()


def _multiplies_bfloat16(kind: str) -> bool:
    """Whether the processor multiplies bfloat16 natively."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public name for the second question
    return kind == "cpu" and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices as TF32 on a GPU, for training; planning needs exact distances between latents."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def compile_in_place(module: nn.Module) -> None:
    """Compile the module's forward and backward passes with torch.compile, at its first call."""
    torch.compiler.assume_constant_result(_multiplies_bfloat16)  # torch.compile cannot look into it
    module.compile()
