"""A graph over the objects of a scene: one node each, message passing over relative features."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hiwm.levels.entities import EntityNetwork
from hiwm.levels.parts import Encoder


class GraphEncoder(Encoder):
    """z = [z_1, ..., z_N], z_i = network(objects)_i: permuting the objects permutes the parts of the latent.

    Args:
        inputs: one input of shape (N, F): N objects of F features.
        dim: size of one object's part of the latent; D = N * dim.
        width: size of an object's features inside.
        depth: layers of message passing.
    """

    def __init__(self, *, inputs: Mapping[str, tuple[int, ...]], dim: int = 8, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        if len(inputs) != 1 or len(shape := next(iter(inputs.values()))) != 2:
            raise ValueError(
                f"GraphEncoder: inputs are {dict(inputs)}; allowed: one input of shape (objects, features)"
            )
        (self.name,) = inputs
        self.network = EntityNetwork(shape[0], shape[1], dim, width, depth)
        self.dim = shape[0] * dim

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(..., N, F) -> (..., N * dim)."""
        return self.network(inputs[self.name]).flatten(-2)
