"""Vision transformer, whose latent comes from the CLS token or from all patches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hiwm.levels.batchnorm import BatchNorm
from hiwm.levels.parts import Encoder
from hiwm.levels.precision import half_precision


class VisionTransformer(nn.Module):
    """ViT-tiny (Dosovitskiy et al. 2021; sizes of DeiT-Ti): an image -> tokens, a CLS token before those of the patches.

    Args:
        shape: shape of an image, (H, W, C).
        patch: side of a patch in pixels; a divisor of H and W.
        width: size of a token.
        depth: layers.
        heads: attention heads.
    """

    def __init__(self, shape: tuple[int, ...], patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.grid = (shape[0] // patch, shape[1] // patch)  # patches a column, patches a row
        self.width = width
        self.patches = nn.Conv2d(shape[2], width, patch, stride=patch)
        self.cls = nn.Parameter(0.02 * torch.randn(width))
        self.position = nn.Parameter(0.02 * torch.randn(self.grid[0] * self.grid[1] + 1, width))
        self.transformer = transformer(width, depth, heads)

    def embed(self, images: Tensor) -> Tensor:
        """(N, H, W, C) -> patches with their positions, row by row, (N, patches, width)."""
        patches = self.patches(images.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        return patches + self.position[1:]

    def attend(self, patches: Tensor) -> Tensor:
        """Any of the embedded patches, (N, n, width) -> CLS and their tokens, (N, 1 + n, width)."""
        cls = (self.cls + self.position[0]).expand(len(patches), 1, -1)
        return self.transformer(torch.cat([cls, patches], 1))

    def forward(self, images: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, 1 + patches, width)."""
        return self.attend(self.embed(images))


class ViTEncoder(Encoder):
    """z = BatchNorm(W read(trunk(image))); read at CLS as in LeWM.

    Args:
        inputs: one image (H, W, C).
        dim: size D of the latent.
        patch: side of a patch in pixels; a divisor of H and W.
        width: size of a token.
        depth: layers.
        heads: attention heads.
        read: "cls", or "patches": a learned query attends to the patches, for a trunk without a trained CLS token
            (after masked prediction).
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
        read: str = "cls",
    ) -> None:
        super().__init__()
        if len(inputs) != 1 or len(shape := next(iter(inputs.values()))) != 3:
            raise ValueError(f"ViTEncoder: inputs are {dict(inputs)}; expected one image (H, W, C)")
        if shape[0] % patch or shape[1] % patch:
            raise ValueError(f"ViTEncoder: patch is {patch}; expected a divisor of both sides of {shape[:2]}")
        if read not in ("cls", "patches"):
            raise ValueError(f"ViTEncoder: read is {read!r}; expected cls, patches")
        ((self.name, self.shape),) = inputs.items()
        self.read = read
        self.trunk = VisionTransformer(self.shape, patch, width, depth, heads)
        project = [nn.Linear(width, dim), BatchNorm(dim)]
        self.head = nn.Sequential(*([_AttentivePool(width, heads)] if read == "patches" else []), *project)
        self.dim = dim

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(..., H, W, C) -> (..., D)."""
        images = inputs[self.name]
        with half_precision(images.device):
            tokens = self.trunk(images.reshape(-1, *self.shape))
        read = tokens[:, 0] if self.read == "cls" else tokens[:, 1:]
        return self.head(read.float()).reshape(*images.shape[: -len(self.shape)], self.dim)


class _AttentivePool(nn.Module):
    """y = q + W attention(q, tokens), y + MLP(y): V-JEPA's attentive probe (arXiv 2404.08471) with a learned q."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, n, width) -> (N, width)."""
        query = self.query.expand(len(tokens), 1, -1)
        read = (query + self.attention(query, tokens, tokens, need_weights=False)[0])[:, 0]
        return read + self.mlp(read)


def transformer(width: int, depth: int, heads: int) -> nn.TransformerEncoder:
    """`depth` pre-norm layers without dropout and a last layer norm, (N, n, width) -> the same."""
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
