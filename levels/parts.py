"""The abstract parts of a level. Implement them, and do not subclass an implementation.

The constructor of a part takes keyword arguments. The config gives the part's own arguments, and hiwm fills in the sizes
that its class below lists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiwm.levels.output import LevelOutput


class Encoder(nn.Module, ABC):
    """Inputs of a level -> its latent. Given `inputs`: the shape of one step of every input.

    Attributes:
        dim: size D of the latent.
    """

    dim: int

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Standardised inputs, each (..., *shape) -> (..., D)."""

    def rescale(self, latent: Tensor) -> Tensor:
        """The latent with the inputs it holds, if any, at their own scale, (..., D) -> (..., D); for inverse models."""
        return latent

    def for_actions(self, latent: Tensor) -> Tensor:
        """What the action encoder sees of a latent, and retrieval compares, (..., D) -> (..., D)."""
        return latent

    def read_inputs(self, latent: Tensor) -> Tensor | None:
        """The standardised inputs, one after another, that a latent holds, (..., D) -> (..., X); None if it does not hold them."""
        return None


class ActionEncoder(nn.Module, ABC):
    """A chunk of actions of the level below -> one action. Given `dim_latent`, `dim_below`, `stride`.

    Attributes:
        dim: size A of the action.
    """

    dim: int

    def standardize(self, actions: Tensor) -> Tensor:
        """Actions of the level below as the losses compare them, (..., A_below); macro-actions are standardised already."""
        return actions

    @abstractmethod
    def forward(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(..., D), (..., stride, A_below) -> (..., A)."""


class Predictor(nn.Module, ABC):
    """(latent, action) -> the next latent. Given `dim_latent`, `dim_action`, and the level's `encoder` if it asks for it.

    Attributes:
        scale: root mean square change of each latent dimension in one step, before training, (D,). It multiplies the output of
            the network, which then starts near 1. An encoder that learns makes longer steps later.
        passes: forward passes of one prediction; the planning budget counts them.
        context: number C of observed latents that a prediction can use; 1 for a predictor without memory.
        num_members: number K of predictors of an ensemble, whose variance measures uncertainty; 1 for a single
            predictor.
    """

    scale: Tensor
    passes: int = 1
    context: int = 1
    num_members: int = 1

    def __init__(self, dim_latent: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(dim_latent))

    def fit(self, change: Tensor) -> None:
        """Set `scale` to the root mean square change of each latent dimension in one step, (D,), before training."""
        self.scale.copy_(change.clamp_min(1e-6))

    @abstractmethod
    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """One step without memory: (..., D), (..., A) -> (..., D)."""

    def error(self, predicted: Tensor, target: Tensor) -> Tensor:
        """The prediction loss, a scalar, of predicted latents and their targets, (B, T, D) each."""
        return F.mse_loss(predicted, target)

    def start(self, latent: Tensor) -> Any:
        """The state of a rollout from (B, D); a predictor with memory overrides this, `step` and `correct`."""
        return latent

    def step(self, state: Any, action: Tensor) -> tuple[Tensor, Any]:
        """Rollout state, (B, A) -> the next latent (B, D) and the next state."""
        latent = self(state, action)
        return latent, latent

    def step_spread(self, state: Any, action: Tensor) -> tuple[Tensor, Tensor | None, Any]:
        """`step`, with the variance of the members, (B, D), as the second result; None for a single predictor."""
        latent, state = self.step(state, action)
        return latent, None, state

    def correct(self, state: Any, latent: Tensor) -> Any:
        """The state after the last predicted latent has been observed, (B, D)."""
        return latent

    def remember(self, latents: Tensor, actions: Tensor) -> Any:
        """The state after observed latents (B, C, D) and the actions between them (B, C-1, A)."""
        state = self.start(latents[:, 0])
        for latent, action in zip(latents[:, 1:].unbind(1), actions.unbind(1), strict=True):
            state = self.correct(self.step(state, action)[1], latent)
        return state

    def rollout(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(B, D), (B, H, A) -> the latents after each action, (B, H, D), each predicted from the one before."""
        return self.rollout_from(self.start(latent), actions)

    def rollout_from(self, state: Any, actions: Tensor) -> Tensor:
        """`rollout` from a state of `start`, `remember` or `correct`."""
        latents = []
        for action in actions.unbind(1):
            latent, state = self.step(state, action)
            latents.append(latent)
        return torch.stack(latents, 1)

    def rollout_in_context(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(B, H+1, D), (B, H, A) -> (B, H, D): one-step predictions within the first C latents, then an open-loop rollout."""
        state, predicted = self.start(latents[:, 0]), []
        for i, action in enumerate(actions.unbind(1), 1):
            latent, state = self.step(state, action)
            predicted.append(latent)
            if i < self.context:
                state = self.correct(state, latents[:, i])
        return torch.stack(predicted, 1)


class Regularizer(nn.Module, ABC):
    """A loss that keeps latents and macro-actions from collapsing.

    Given `inputs`, `dim_latent`, `dim_chunk` (of the actions below), and the level's `encoder` if it asks for it.

    Attributes:
        metric: whether it makes |z - z'|, the sum of absolute differences, a number of steps (`TemporalDistance`: a discounted one) from one
            latent to the other. The level then plans by that number instead of by the squared Euclidean distance.
        fit_windows: windows of the data that `fit` looks at; 0: it is not called.
        imagines: whether it also looks at what the level predicts, by `imagine`; needs `fit_windows`. The level is then trained twice; the first time its loss must not
            need that.
    """

    metric: bool = False
    fit_windows: int = 0
    imagines: bool = False

    def fit(self, inputs: Mapping[str, Tensor]) -> None:
        """Look at the standardised inputs of many windows, each (N, T+1, ...), before training."""

    def imagine(self, inputs: Tensor, actions: Tensor, step: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Look at what the level predicts once its dynamics are trained, after `fit`.

        Args:
            inputs: first step of `fit_windows` windows, standardised and joined, (N, X).
            actions: actions of the level below that follow, (N, stride, A).
            step: predicts the latent after such actions, (N, D), (N, stride, A) -> (N, D).
        """

    @abstractmethod
    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        """Scalar; `generator` is in the same state in every process."""
