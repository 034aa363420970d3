"""An embedding beside the inputs it is made from, so that a predictor can predict the inputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hiwm.checks import within
from hiwm.levels.encoders.identity import IdentityEncoder
from hiwm.levels.maps import MapEmbedding
from hiwm.levels.networks import mlp
from hiwm.levels.parts import Encoder

# of the inputs in the latent, so small that distances between latents are those of the embedding
SCALE = 0.001


class BesideInputsEncoder(Encoder):
    """z = [0.001 x, MLP(x)], for the inputs x; with `embedded` only the last of them enter the MLP.

    For metric levels. What an action does to their embedding depends on the walls nearby and is hard to predict. What it does to the inputs, for instance the latent of
    the level below, is often a simple shift; `ViaInputsPredictor` predicts that. Regularizers that look at every dimension, such as `SIGReg` and `Laplacian`, do not suit these latents.

    Args:
        inputs: shape of one step of every input.
        dim: size E of the embedding; with X inputs the latent has D = X + E dimensions.
        width: units of a hidden layer.
        depth: hidden layers.
        frequencies: of the `PositionalEncoding` of the inputs; 0: none.
        encoded: how many inputs are encoded, the leading ones of those embedded; None: all.
        embedded: how many of the inputs, the last ones, are embedded, so that distances ignore the others; None: all.
        map_side: cells on a side of the map with which the inputs end; a `MapEmbedding` of this `width` then replaces the MLP. None: they have no map.
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, tuple[int, ...]],
        dim: int,
        width: int = 128,
        depth: int = 3,
        frequencies: int = 0,
        encoded: int | None = None,
        embedded: int | None = None,
        map_side: int | None = None,
    ) -> None:
        super().__init__()
        self.flatten = IdentityEncoder(inputs=inputs)
        self.dim_inputs = self.flatten.dim
        self.map_side = map_side
        self.embedded = self.dim_inputs if embedded is None else embedded
        within(f"[1, {self.dim_inputs}]", embedded=self.embedded)
        if map_side is None:
            self.net = mlp(self.embedded, width, depth, dim, frequencies, encoded)
        elif frequencies or encoded is not None or embedded is not None:
            raise ValueError("map_side is set together with frequencies, encoded or embedded; expected map_side alone")
        else:
            self.net = MapEmbedding(self.dim_inputs, dim, map_side, width)
        self.dim = self.dim_inputs + dim

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Each (..., *shape) -> (..., D)."""
        return self.embed(self.flatten(inputs))

    def embed(self, x: Tensor) -> Tensor:
        """Inputs as one tensor, (..., X) -> (..., D)."""
        return self.joined(x, self.embedding(x))

    def embedding(self, x: Tensor) -> Tensor:
        """Inputs as one tensor, (..., X) -> (..., E)."""
        return self.net(x[..., -self.embedded :])

    @staticmethod
    def joined(x: Tensor, embedding: Tensor) -> Tensor:
        """The latent of inputs (..., X) and their embedding (..., E)."""
        return torch.cat([SCALE * x, embedding], -1)

    def rescale(self, latent: Tensor) -> Tensor:
        """[x, MLP(x)], (..., D) -> (..., D)."""
        return torch.cat([self.read_inputs(latent), latent[..., self.dim_inputs :]], -1)

    def for_actions(self, latent: Tensor) -> Tensor:
        """`rescale` if only some inputs are embedded, because the others cannot be read at 0.001 of their scale, (..., D) -> (..., D)."""
        return latent if self.embedded == self.dim_inputs else self.rescale(latent)

    def read_inputs(self, latent: Tensor) -> Tensor:
        """(..., D) -> (..., X)."""
        return latent[..., : self.dim_inputs] / SCALE
