"""The records that a level trains on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Two moments of one episode, `steps` steps of the level below apart; the inverse model trains on them.

    Args:
        source: named inputs at the first moment, each (B, ...).
        action: the action of the level below taken there, (B, A_below).
        target: named inputs at the second moment, each (B, ...).
        steps: steps of the level below between the two, (B,), at least 1.
    """

    source: dict[str, Tensor]
    action: Tensor
    target: dict[str, Tensor]
    steps: Tensor


@dataclass(frozen=True)
class Clip:
    """A batch of windows at the stride of one level.

    Args:
        inputs: named inputs at the steps of this level, each (B, T+1, ...); above level 0 {"latent": (B, T+1,
            D_below)}.
        actions: the actions of the level below between them, (B, T, stride, A_below).
        pairs: moments for the inverse model; None for a level without one.
    """

    inputs: dict[str, Tensor]
    actions: Tensor
    pairs: Pairs | None

    def map(self, function: Callable[[Tensor], Tensor]) -> Clip:
        """The clip with `function` applied to every tensor: a move to a device, a slice of the batch."""

        def each(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: function(value) for name, value in inputs.items()}

        pairs = self.pairs
        if pairs is not None:
            pairs = Pairs(each(pairs.source), function(pairs.action), each(pairs.target), function(pairs.steps))
        return Clip(each(self.inputs), function(self.actions), pairs)
