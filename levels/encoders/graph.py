"""A graph network with one node for each object of a scene, which passes messages over relative features."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hiwm.levels.encoders.identity import IdentityEncoder
from hiwm.levels.entities import EntityNetwork
from hiwm.levels.parts import Encoder


class GraphEncoder(Encoder):
    """z = [z_1, ..., z_N], z_i = network(objects)_i: permuting the objects permutes the parts of the latent.

    Args:
        inputs: one input of shape (N, F), N objects of F features, or (N F), the output of an identity encoder below.
        entities: number N of objects, for an input of shape (N F).
        dim: size of one object's part of the latent; D = N * dim.
        width: size of an object's hidden features.
        depth: layers of message passing.
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, tuple[int, ...]],
        dim: int = 8,
        entities: int | None = None,
        width: int = 64,
        depth: int = 2,
    ) -> None:
        super().__init__()
        shape, *others = inputs.values()
        if entities is not None and len(shape) == 1 and shape[0] % entities == 0:
            shape = (entities, shape[0] // entities)
        if others or len(shape) != 2 or entities not in (None, shape[0]):
            raise ValueError(
                f"GraphEncoder: inputs are {dict(inputs)}, entities is {entities}; "
                "expected one input of shape (objects, features), or one of (objects * features,) and entities = objects"
            )
        self.flat = IdentityEncoder(inputs=inputs)
        self.shape = shape
        self.network = EntityNetwork(*shape, dim, width, depth)
        self.dim = shape[0] * dim

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(..., N, F) or (..., N * F) -> (..., N * dim)."""
        return self.network(self.flat(inputs).unflatten(-1, self.shape)).flatten(-2)
