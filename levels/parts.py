"""What a level is composed of: the four abstract parts, to be implemented, never subclassed further.

A part's constructor takes keyword arguments: its own, from the config, and the sizes named in its class below, which
hiwm fills in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hiwm.levels.features import Features


class Encoder(nn.Module, ABC):
    """What a level sees -> its latent. Given `inputs`: the shape of one step of every input.

    Attributes:
        dim: size D of the latent.
    """

    dim: int

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Standardised inputs, each (..., *shape) -> (..., D)."""


class ActionEncoder(nn.Module, ABC):
    """A chunk of actions of the level below -> one action. Given `dim_latent`, `dim_below`, `stride`.

    Attributes:
        dim: size A of the action.
    """

    dim: int

    @abstractmethod
    def forward(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(..., D), (..., stride, A_below) -> (..., A)."""


class Predictor(nn.Module, ABC):
    """(latent, action) -> the next latent. Given `dim_latent`, `dim_action`."""

    @abstractmethod
    def fit(self, change: Tensor) -> None:
        """Before training: the root mean square change of each latent dimension in one step, (D,)."""

    @abstractmethod
    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> (..., D)."""


class Regularizer(nn.Module, ABC):
    """What keeps latents and macro-actions from collapsing. Given nothing."""

    @abstractmethod
    def forward(self, features: Features, generator: torch.Generator) -> Tensor:
        """Scalar; `generator` is in the same state in every process."""
