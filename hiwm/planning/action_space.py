"""What a level chooses in one step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ActionSpace:
    """Actions of a level. A search chooses C times F numbers, each held for `action_repeat` steps, which make H actions of A numbers.

    Args:
        dim: size A of an action; at level 0 that is a chunk of primitive actions.
        dim_free: size F of a choice, a primitive action at level 0 and A elsewhere.
        low, high: bounds of a choice, (F,) or (); primitive actions are standardised.
        discrete: a choice is one of F options, a one-hot vector; a proposal's mean then holds their probabilities.
    """

    dim: int
    dim_free: int
    low: Tensor
    high: Tensor
    discrete: bool = False

    def bounded(self, low: Tensor, high: Tensor) -> ActionSpace:
        """The same actions within other bounds."""
        return replace(self, low=low, high=high)

    def clamp(self, actions: Tensor) -> Tensor:
        """Actions within the bounds, or the options nearest to them, (..., A) -> (..., A)."""
        free = actions.unflatten(-1, (-1, self.dim_free))
        return (likeliest(free) if self.discrete else free.clamp(self.low, self.high)).flatten(-2)

    def choices(self, actions: Tensor, action_repeat: int) -> Tensor:
        """Actions as choices, each the mean of those it is held for, (B, H, A) -> (B, C, F)."""
        return actions.reshape(len(actions), -1, action_repeat, self.dim_free).mean(2)

    def expand(self, choices: Tensor, action_repeat: int) -> Tensor:
        """Choices as actions, (..., C, F) -> (..., H, A)."""
        return choices.repeat_interleave(action_repeat, -2).reshape(*choices.shape[:-2], -1, self.dim)

    @staticmethod
    def shifted(choices: Tensor, action_repeat: int, steps: int, mean: Tensor) -> Tensor:
        """Choices made so many steps ago, from now on.

        Args:
            choices: (B, G, C, F).
            action_repeat: steps that one is held.
            steps: of the level; at level 0, of the environment.
            mean: choices that fill the end, (B, C, F).
        """
        if steps == 0:
            return choices
        before = choices.repeat_interleave(action_repeat, 2)
        end = mean.repeat_interleave(action_repeat, 1)[:, -steps:].unsqueeze(1).expand(-1, choices.shape[1], -1, -1)
        return torch.cat([before[:, :, steps:], end], 2).unflatten(2, (-1, action_repeat)).mean(3)


def likeliest(values: Tensor) -> Tensor:
    """The option with the largest value as a one-hot vector, (..., F) -> (..., F)."""
    return F.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)
