"""Behaviour policies for collecting data: observations and infos of a vector environment in, actions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np


class Policy(Protocol):
    """Chooses the actions of `collect`; all randomness comes from the episodes' own seeds."""

    def reset(self, seeds: Sequence[int], space: gymnasium.spaces.Box, steps: int) -> None:
        """New episodes, one an environment, of at most `steps` steps, with actions in `space` (of one environment)."""

    def act(self, observations: np.ndarray, infos: dict[str, Any], step: int) -> np.ndarray:
        """(B, ...) -> actions (B, A)."""
        ...


class UniformPolicy:
    """Uniformly random actions, each held for `repeat` steps.

    Args:
        repeat: steps an action is held; longer walks cover more ground.
    """

    def __init__(self, *, repeat: int = 1) -> None:
        self.repeat = repeat

    def reset(self, seeds: Sequence[int], space: gymnasium.spaces.Box, steps: int) -> None:
        draws = -(-steps // self.repeat)
        low, high = space.low, space.high
        self.actions = np.stack([np.random.default_rng(s).uniform(low, high, (draws, *low.shape)) for s in seeds], 1)

    def act(self, observations: np.ndarray, infos: dict[str, Any], step: int) -> np.ndarray:
        return self.actions[step // self.repeat].astype(np.float32)


class NoisyExpertPolicy:
    """The environment's own expert, `info["expert_action"]`, with Gaussian noise, clipped to the action space.

    Args:
        noise: standard deviation, in the unit of the action.
    """

    def __init__(self, *, noise: float) -> None:
        self.noise = noise

    def reset(self, seeds: Sequence[int], space: gymnasium.spaces.Box, steps: int) -> None:
        self.low, self.high = space.low, space.high
        self.draws = np.stack([np.random.default_rng(s).normal(0, self.noise, (steps, *space.shape)) for s in seeds], 1)

    def act(self, observations: np.ndarray, infos: dict[str, Any], step: int) -> np.ndarray:
        if "expert_action" not in infos:
            raise ValueError('NoisyExpertPolicy needs an environment whose info has "expert_action"')
        return np.clip(infos["expert_action"] + self.draws[step], self.low, self.high).astype(np.float32)
