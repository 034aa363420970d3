"""Vision transformer, read at its CLS token."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hiwm.levels.batchnorm import BatchNorm
from hiwm.levels.parts import Encoder
from hiwm.levels.precision import half_precision


class ViTEncoder(Encoder):
    """z = BatchNorm(W vit(image)_CLS): ViT-tiny (Dosovitskiy et al. 2021; sizes of DeiT-Ti), the head as in LeWM.

    Args:
        inputs: one image (H, W, C).
        dim: size D of the latent.
        patch: pixels a side of a patch; a divisor of both sides.
        width: size of a token.
        depth: layers.
        heads: attention heads.
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, tuple[int, ...]],
        dim: int,
        patch: int = 8,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
    ) -> None:
        super().__init__()
        if len(inputs) != 1 or len(shape := next(iter(inputs.values()))) != 3:
            raise ValueError(f"ViTEncoder: inputs are {dict(inputs)}; allowed: one image (H, W, C)")
        if shape[0] % patch or shape[1] % patch:
            raise ValueError(f"ViTEncoder: patch is {patch}; allowed: a divisor of both sides of {shape[:2]}")
        ((self.name, self.shape),) = inputs.items()
        patches = (shape[0] // patch) * (shape[1] // patch)
        self.patches = nn.Conv2d(shape[2], width, patch, stride=patch)
        self.cls = nn.Parameter(0.02 * torch.randn(width))
        self.position = nn.Parameter(0.02 * torch.randn(patches + 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(width, dim), BatchNorm(dim))
        self.dim = dim

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(..., H, W, C) -> (..., D)."""
        images = inputs[self.name]
        leading = images.shape[: -len(self.shape)]
        with half_precision(images.device):
            tokens = self.patches(images.reshape(-1, *self.shape).permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.cls.expand(len(tokens), 1, -1).to(tokens), tokens], 1) + self.position
            read = self.transformer(tokens)[:, 0]
        return self.head(read.float()).reshape(*leading, self.dim)
