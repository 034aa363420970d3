"""Input standardisation: fitted on the dataset, stored with the level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def split_columns(values: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Columns that were joined, (..., sum of their sizes) -> each (..., *shape)."""
    parts = values.split([math.prod(shape) for shape in shapes.values()], -1)
    return {
        name: part.reshape(*part.shape[:-1], *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


class Standardize(nn.Module):
    """(x - mean) / max(std, min_std), element by element, for every named input; objects (N, F) share their statistics.

    With separate statistics for each object, its one-hot kind would vanish, because it is constant, and positions of two
    objects could not be compared. Without standardisation, a static background is the easiest thing to predict, and the
    latent keeps nothing else.

    Args:
        inputs: shape of one step of every input.
        min_std: lower bound of the standard deviation, in the unit of the input; it keeps constant elements at zero.
    """

    def __init__(self, inputs: Mapping[str, tuple[int, ...]], min_std: float) -> None:
        super().__init__()
        self.shapes = dict(inputs)
        self.min_std = min_std
        for name, shape in inputs.items():
            self.register_buffer(_buffer(name, "mean"), torch.zeros(shape))
            self.register_buffer(_buffer(name, "std"), torch.ones(shape))

    def fit(self, mean: Mapping[str, Tensor], std: Mapping[str, Tensor]) -> None:
        """Take mean and standard deviation, one tensor of the input's shape each."""
        for name in self.shapes:
            m, s = mean[name], std[name]
            if m.dim() == 2:
                centre = m.mean(0)
                m, s = centre, (s.square() + (m - centre).square()).mean(0).sqrt()
            self.get_buffer(_buffer(name, "mean")).copy_(m)
            self.get_buffer(_buffer(name, "std")).copy_(s.clamp_min(self.min_std))

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each (..., *shape), any number type -> float, same shape."""
        return {
            name: (inputs[name].float() - self.get_buffer(_buffer(name, "mean")))
            / self.get_buffer(_buffer(name, "std"))
            for name in self.shapes
        }

    def undo(self, name: str, value: Tensor) -> Tensor:
        """One standardised input (..., *shape) in its own unit again."""
        return value * self.get_buffer(_buffer(name, "std")) + self.get_buffer(_buffer(name, "mean"))


def _buffer(name: str, statistic: str) -> str:
    """The name of a buffer; torch allows no dot in it, and columns have dotted names."""
    return f"{name.replace('%', '%25').replace('.', '%2E')}_{statistic}"
