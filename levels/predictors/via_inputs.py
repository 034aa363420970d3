"""Predict the inputs that a latent holds, and embed them again."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hiwm.levels.encoders.beside_inputs import BesideInputsEncoder
from hiwm.levels.maps import AroundAgent
from hiwm.levels.networks import mlp
from hiwm.levels.parts import Encoder, Predictor


class ViaInputsPredictor(Predictor):
    """x' = x + scale * MLP([x, m]) and z' = [0.001 x', embedding of x'], for the latents of `BesideInputsEncoder`, which hold inputs x, and actions m.

    For metric levels, whose regularizer trains the embedding: the prediction loss does not. The embedding is not counted as a forward pass.

    Args:
        dim_latent: size D of the latent.
        dim_action: size A of the action.
        encoder: of the level, which embeds the predicted inputs; its weights are no parameters of the predictor.
        width: units of a hidden layer.
        depth: hidden layers.
        frequencies: of the `PositionalEncoding` of inputs and action; 0: none.
        encoded: how many leading inputs are encoded; None: inputs and action.
        view: where the encoder has a `map_side`, the network sees the map up to so many cells from the agent; more than a step can reach.

    Raises:
        ValueError: the encoder does not keep its inputs.
    """

    def __init__(
        self,
        *,
        dim_latent: int,
        dim_action: int,
        encoder: Encoder,
        width: int = 128,
        depth: int = 3,
        frequencies: int = 0,
        encoded: int | None = None,
        view: int = 2,
    ) -> None:
        super().__init__(dim_latent)
        if not isinstance(encoder, BesideInputsEncoder):
            raise ValueError(
                f"predicts the inputs in the latent, and {type(encoder).__name__} keeps none; expected encoder=beside_inputs at the same level"
            )
        self._encoder = (encoder,)  # a tuple, or its weights would be part of the predictor
        around = (
            None if encoder.map_side is None else AroundAgent(encoder.dim_inputs, encoder.map_side, view, dim_action)
        )
        self.net = mlp(encoder.dim_inputs + dim_action, width, depth, encoder.dim_inputs, frequencies, encoded, around)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> (..., D)."""
        (encoder,) = self._encoder
        x, scale = encoder.read_inputs(latent), encoder.read_inputs(self.scale)
        x = x + scale * self.net(torch.cat([x, action], -1))
        # a solver may need gradients through the embedding, but no loss does
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            embedding = encoder.embedding(x)
        return encoder.joined(x, embedding)

    def error(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Of the inputs alone, relative to their mean square change in one step."""
        (encoder,) = self._encoder
        change = encoder.read_inputs(self.scale).square().mean()
        return F.mse_loss(encoder.read_inputs(predicted), encoder.read_inputs(target)) / change
