"""The standardised chunk of actions, for level 0, whose actions the environment executes."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.parts import ActionEncoder


class RawActionEncoder(ActionEncoder):
    """Standardises and concatenates the `stride` actions of the level below; nothing is learned and `decode` undoes it.

    Everything above sees standardised actions: the predictor, the inverse model, a search, the level above. The units of the
    environment remain in the data and in what is executed.

    Args:
        dim_below: size of one action of the level below.
        stride: actions in a chunk.

    Attributes:
        mean, std: of the actions of the level below; 0 and 1 until `fit`, which only level 0 is given.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, dim_below: int, stride: int) -> None:
        super().__init__()
        self.dim = stride * dim_below
        self.chunk = (stride, dim_below)
        self.register_buffer("mean", torch.zeros(dim_below))
        self.register_buffer("std", torch.ones(dim_below))

    def fit(self, mean: Tensor, std: Tensor) -> None:
        """Before training: mean and standard deviation of the actions in the data, (A_below,) each."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def standardize(self, actions: Tensor) -> Tensor:
        """See `ActionEncoder`."""
        return (actions.float() - self.mean) / self.std

    def forward(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(..., D), (..., stride, A_below) -> (..., stride * A_below)."""
        return self.standardize(actions).flatten(-2)

    def decode(self, action: Tensor) -> Tensor:
        """(..., stride * A_below) -> (..., stride, A_below), in the units of the level below."""
        return action.unflatten(-1, self.chunk) * self.std + self.mean
