"""Vector environments whose episodes start together; an episode that has ended repeats its last observation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from hiwm.data.spaces import FlatSpaces


class EnvironmentFault(ValueError):
    """An error inside an environment in the middle of its work."""


@contextmanager
def _naming(env: gymnasium.Env, where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        spec = env.unwrapped.spec
        name = spec.id if spec else type(env.unwrapped).__name__
        raise EnvironmentFault(
            f"{name}: {where} raises {type(error).__name__}: {error}. Episodes that are finished are kept: correct the environment and "
            "run the same command. HYDRA_FULL_ERROR=1 shows the traceback"
        ) from error


class HoldAtEnd(gymnasium.Wrapper):
    """Repeats the last observation of an episode that has ended, without stepping it; `info["ended"]` says so.

    The autoreset modes of Gymnasium either start a new episode at once or refuse the next step. A batch of episodes that
    advances step by step needs neither.
    """

    #: number of the next episode within its task; `reset` adds it to its options
    episode: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        if self.episode is not None:
            options = {**(options or {}), "episode": self.episode}
        with _naming(self.env, "reset"):
            self._last, info = self.env.reset(seed=seed, options=options)
        self._ended, self._step = False, 0
        return self._last, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        if self._ended:
            return self._last, 0.0, False, False, {"ended": True}
        self._step += 1
        with _naming(self.env, f"step {self._step} of an episode"):
            self._last, reward, terminated, truncated, info = self.env.step(action)
        self._ended = terminated or truncated
        return self._last, float(reward), False, False, {**info, "ended": self._ended}


class HeldEpisodes(SyncVectorEnv):
    """Copies of an environment. The option "episode" of `reset` may be a list with one number for each copy."""

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        options = dict(options or {})
        self.set_attr("episode", options.pop("episode", None))
        return super().reset(seed=seed, options=options)


def make_vector(make_env: Callable[[], gymnasium.Env], num_envs: int) -> VectorEnv:
    """`num_envs` copies in this process, made by the `make_vector` of the environment if it has one, else one by one.

    Copies made one by one have flat spaces, see `FlatSpaces`.
    """
    first: Any = make_env()
    if hasattr(first, "make_vector"):
        return first.make_vector(num_envs)
    others = [lambda: HoldAtEnd(FlatSpaces(make_env()))] * (num_envs - 1)
    return HeldEpisodes([lambda: HoldAtEnd(FlatSpaces(first)), *others], autoreset_mode=AutoresetMode.DISABLED)
