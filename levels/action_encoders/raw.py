"""The unchanged chunk of actions, for level 0, whose actions the environment executes."""

from __future__ import annotations

from torch import Tensor

from hiwm.levels.parts import ActionEncoder


class RawActionEncoder(ActionEncoder):
    """Concatenates the `stride` actions of the level below; nothing is learned and `decode` undoes it.

    Args:
        dim_below: size of one action of the level below.
        stride: actions in a chunk.
    """

    def __init__(self, *, dim_below: int, stride: int) -> None:
        super().__init__()
        self.dim = stride * dim_below
        self.chunk = (stride, dim_below)

    def forward(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(..., D), (..., stride, A_below) -> (..., stride * A_below)."""
        return actions.flatten(-2)

    def decode(self, action: Tensor) -> Tensor:
        """(..., stride * A_below) -> (..., stride, A_below)."""
        return action.unflatten(-1, self.chunk)
