"""Pictures of observations: which input is an image, and small frames of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

LARGEST = 96  # pixels of a side
CHANNELS = (1, 3, 4)


def image_input(inputs: Mapping[str, Sequence[int]]) -> str | None:
    """The first input that is an image, by the shape of one row: (H, W), (H, W, C) or (C, H, W); None without one."""
    return next((name for name, shape in inputs.items() if _is_image(shape)), None)


def _is_image(shape: Sequence[int]) -> bool:
    if len(shape) == 3 and not {shape[0], shape[-1]} & set(CHANNELS):
        return False
    return len(shape) in (2, 3) and sorted(shape)[-2] >= 8


def as_frames(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) as small frames of bytes, (N, h, w, 1 or 3)."""
    if images.ndim == 3:
        images = images[..., None]
    elif images.shape[-1] not in CHANNELS:
        images = images.transpose(0, 2, 3, 1)
    step = -(-max(images.shape[1:3]) // LARGEST)
    images = images[:, ::step, ::step, : 3 if images.shape[-1] >= 3 else 1]
    if images.dtype != np.uint8:
        brightest = 255 if images.size and images.max() > 1 else 1
        images = (255 / brightest * np.clip(images, 0, brightest)).astype(np.uint8)
    return images
