"""A small convolutional network over images, with the other inputs joined at its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn

from hiwm.levels.batchnorm import BatchNorm
from hiwm.levels.parts import Encoder
from hiwm.levels.precision import half_precision


class ConvEncoder(Encoder):
    """z = head([trunk(image 1), ..., other inputs]).

    The trunk halves the resolution at every layer; the head is BatchNorm, Linear, BatchNorm, GELU, Linear. Standardised
    pixels and BatchNorm in the head together prevent a latent that encodes only the static background. Images of several
    inputs share the trunk if they have as many channels. The trunk runs in bfloat16 and channels-last where the
    processor is fast at it.

    Args:
        inputs: shape of one step of every input; those of three dimensions are images (H, W, C), all others are joined
            as they are (proprioception).
        dim: size D of the latent.
        channels: channels of the trunk's layers.
        width: units of the head's hidden layer.
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, tuple[int, ...]],
        dim: int,
        channels: Sequence[int] = (16, 32, 32),
        width: int = 256,
    ) -> None:
        super().__init__()
        self.images = {name: tuple(shape) for name, shape in inputs.items() if len(shape) == 3}
        self.others = {name: tuple(shape) for name, shape in inputs.items() if len(shape) != 3}
        depths = {shape[2] for shape in self.images.values()}
        if len(depths) != 1:
            raise ValueError(
                f"ConvEncoder: inputs are {dict(inputs)}; expected at least one image (H, W, C), all of as many channels"
            )
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip([*depths, *channels], channels, strict=False)):
            kernel = 5 if i == 0 else 3
            layers += [nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2), nn.GELU()]
        self.trunk = nn.Sequential(*layers)
        self.trunk.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (torch documents it)
        halvings = len(channels)
        sizes = [channels[-1] * prod(-(-side // 2**halvings) for side in shape[:2]) for shape in self.images.values()]
        features = sum(sizes) + sum(prod(shape) for shape in self.others.values())
        self.head = nn.Sequential(
            BatchNorm(features), nn.Linear(features, width), BatchNorm(width), nn.GELU(), nn.Linear(width, dim)
        )
        self.dim = dim

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Each (..., *shape) -> (..., D)."""
        name, shape = next(iter(self.images.items()))
        leading = inputs[name].shape[: -len(shape)]
        features = []
        with half_precision(inputs[name].device):
            for name, shape in self.images.items():
                # (H, W, C) in memory is what channels-last means
                images = inputs[name].reshape(-1, *shape).permute(0, 3, 1, 2)
                features.append(self.trunk(images).float().flatten(1))
        features += [inputs[name].reshape(len(features[0]), -1) for name in self.others]
        return self.head(torch.cat(features, 1)).reshape(*leading, self.dim)
