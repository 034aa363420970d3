"""Pixel prediction: the frames themselves, decoded from the predicted latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer
from hiwm.levels.precision import half_precision


class PixelPrediction(Regularizer):
    """Mean of (decoder([z_0, z^_1, ..., z^_T]) - frames)^2, in standardised pixels, where z^ are the predicted latents.

    The generative baseline: action-conditional next-frame prediction (Oh et al. 2015, arXiv 1507.08750, equation 4, all
    steps at once). z_0 is decoded as well, because a rollout starts from it.

    The decoder is Linear, GELU, Linear, then transposed convolutions that double the resolution each, in bfloat16 where
    the processor is fast at it.

    Args:
        inputs: shape of one step of every input; exactly one is an image (H, W, C), others are not predicted.
        dim_latent: size D of the latent.
        channels: channels before each transposed convolution.
        width: units of the hidden layer.
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, tuple[int, ...]],
        dim_latent: int,
        channels: Sequence[int] = (32, 32, 16),
        width: int = 256,
    ) -> None:
        super().__init__()
        images = [name for name, shape in inputs.items() if len(shape) == 3]
        if len(images) != 1:
            raise ValueError(f"PixelPrediction: inputs are {dict(inputs)}; expected exactly one image (H, W, C)")
        self.image = images[0]
        self.height, self.width, depth = inputs[self.image]
        rows, columns = (-(-side // 2 ** len(channels)) for side in (self.height, self.width))
        layers: list[nn.Module] = [
            nn.Linear(dim_latent, width),
            nn.GELU(),
            nn.Linear(width, channels[0] * rows * columns),
            nn.Unflatten(-1, (channels[0], rows, columns)),
        ]
        for before, after in zip(channels, [*channels[1:], depth], strict=True):
            layers += [nn.GELU(), nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1)]
        self.decoder = nn.Sequential(*layers)

    def decode(self, latent: Tensor) -> Tensor:
        """(..., D) -> frames in standardised pixels, (..., H, W, C)."""
        with half_precision(latent.device):
            frames = self.decoder(latent.reshape(-1, latent.shape[-1])).float()
        frames = frames[..., : self.height, : self.width].permute(0, 2, 3, 1)
        return frames.reshape(*latent.shape[:-1], *frames.shape[1:])

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        latent = torch.cat([output.latent[:, :1], output.predicted], 1)  # (B, T+1, D)
        return F.mse_loss(self.decode(latent), output.inputs[self.image])
