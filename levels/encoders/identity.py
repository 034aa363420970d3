"""The latent is the standardised input; the default of level 0 over a low-dimensional state."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from hiwm.levels.parts import Encoder


class IdentityEncoder(Encoder):
    """Flattens and concatenates the inputs; it has no parameters.

    Args:
        inputs: shape of one step of every input.
    """

    def __init__(self, *, inputs: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.inputs = dict(inputs)
        self.dim = sum(prod(shape) for shape in inputs.values())

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Each (..., *shape) -> (..., D)."""
        return torch.cat(
            [inputs[name].flatten(inputs[name].dim() - len(shape)) for name, shape in self.inputs.items()], -1
        )

    def read_inputs(self, latent: Tensor) -> Tensor:
        """The latent itself."""
        return latent
