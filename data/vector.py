"""Vector environments whose episodes start together and stand still once they have ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class HoldAtEnd(gymnasium.Wrapper):
    """After its end an episode repeats its last observation at no cost; `info["ended"]` says so.

    Gymnasium's own modes either start a new episode at once or forbid the next step; a batch of episodes compared step
    by step needs neither.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        self._last, info = self.env.reset(seed=seed, options=options)
        self._ended = False
        return self._last, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        if self._ended:
            return self._last, 0.0, False, False, {"ended": True}
        self._last, reward, terminated, truncated, info = self.env.step(action)
        self._ended = terminated or truncated
        return self._last, float(reward), False, False, {**info, "ended": self._ended}


def make_vector(make_env: Callable[[], gymnasium.Env], num_envs: int) -> SyncVectorEnv:
    """`num_envs` copies in this process."""
    return SyncVectorEnv([lambda: HoldAtEnd(make_env())] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
