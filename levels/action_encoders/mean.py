"""A linear map of the mean of the chunk, which discards the order of the actions."""

from __future__ import annotations

from torch import Tensor, nn

from hiwm.levels.parts import ActionEncoder


class MeanActionEncoder(ActionEncoder):
    """m = W mean(a_1, ..., a_stride) + b.

    Args:
        dim_below: size of one action of the level below.
        dim: size of the macro-action.
    """

    def __init__(self, *, dim_below: int, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim_below, dim)
        self.dim = dim

    def forward(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(..., D), (..., stride, A_below) -> (..., A)."""
        return self.map(actions.mean(-2))
