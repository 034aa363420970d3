"""Counts forward passes by wrapping the networks, so that solvers and strategies need not count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from hiwm.levels.parts import Predictor
from hiwm.planning.solvers.solver import GRADIENT_PASSES

T = TypeVar("T")


class ForwardCounter:
    """Forward passes since the last reset, of all episodes together. A pass with a gradient counts `GRADIENT_PASSES` times.

    Attributes:
        predictor: forward passes of predictors; one step of an ensemble of M takes M.
        other: forward passes of encoders, inverse models, action priors and value heads; goal readouts are not counted.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from 0."""
        self.predictor = self.other = 0

    def per_episode(self, episodes: int) -> tuple[float, float]:
        """Mean counts of B episodes: predictor, other."""
        return self.predictor / episodes, self.other / episodes

    def wrap(self, network: Callable[..., T], passes: int = 1) -> Callable[..., T]:
        """The network with its passes counted under `other`; each row of its first argument is one pass.

        Args:
            network: takes a tensor (..., D), or inputs by name, first.
            passes: network evaluations of one call.
        """

        def counted(first: Tensor | Mapping[str, Tensor], *others: Any) -> T:
            rows = len(next(iter(first.values()))) if isinstance(first, Mapping) else first.shape[:-1].numel()
            self.other += passes * rows * _gradient_factor(first, *others)
            return network(first, *others)

        return counted


class CountedPredictor:
    """A predictor whose forward passes are counted.

    Args:
        predictor: predictor of one level.
        counter: counts its forward passes.
    """

    def __init__(self, predictor: Predictor, counter: ForwardCounter) -> None:
        self.predictor = predictor
        self.counter = counter

    def remember(self, latents: Tensor, actions: Tensor) -> Any:
        self.counter.predictor += self.predictor.passes * actions.shape[:2].numel()
        return self.predictor.remember(latents, actions)

    def step_spread(self, state: Any, action: Tensor) -> tuple[Tensor, Tensor | None, Any]:
        self.counter.predictor += self.predictor.passes * len(action) * _gradient_factor(action)
        return self.predictor.step_spread(state, action)


def _gradient_factor(*arguments: Any) -> int:
    """How many forward passes a call counts as: more if a backward pass will follow."""
    return GRADIENT_PASSES if any(isinstance(x, Tensor) and x.requires_grad for x in arguments) else 1
