"""A multilayer perceptron over the concatenated inputs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hiwm.levels.encoders.identity import IdentityEncoder
from hiwm.levels.networks import mlp
from hiwm.levels.parts import Encoder


class MLPEncoder(Encoder):
    """z = MLP(inputs), or MLP(inputs) + W inputs.

    Args:
        inputs: shape of one step of every input.
        dim: size D of the latent.
        width: units of a hidden layer.
        depth: hidden layers.
        frequencies: of the `PositionalEncoding` of the inputs; 0: none.
        encoded: how many leading inputs are encoded; None: all.
        skip: whether to add a linear skip connection, which keeps the precision of the inputs.
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, tuple[int, ...]],
        dim: int,
        width: int = 128,
        depth: int = 2,
        frequencies: int = 0,
        encoded: int | None = None,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.flatten = IdentityEncoder(inputs=inputs)
        self.net = mlp(self.flatten.dim, width, depth, dim, frequencies, encoded)
        self.skip = nn.Linear(self.flatten.dim, dim, bias=False) if skip else None
        self.dim = dim

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Each (..., *shape) -> (..., D)."""
        x = self.flatten(inputs)
        return self.net(x) if self.skip is None else self.net(x) + self.skip(x)
