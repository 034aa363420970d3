"""Behaviour policies for data collection: they map observations and infos of a vector environment to actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np

Space = gymnasium.spaces.Box | gymnasium.spaces.Discrete
UNBOUNDED = 1e18  # some environments write the largest float where they mean infinity


@runtime_checkable
class Policy(Protocol):
    """Chooses the actions of `collect`; all randomness comes from the seeds of the episodes."""

    def reset(self, seeds: Sequence[int], space: Space, steps: int) -> None:
        """Start episodes of at most `steps` steps, one per environment; `space` is the action space of one environment."""

    def act(self, observations: np.ndarray, infos: dict[str, Any], step: int) -> np.ndarray:
        """Actions for the observations (B, ...): (B, A), or (B,) if they are discrete."""
        ...


class UniformPolicy(Policy):
    """Uniformly random actions, each held for `repeat` steps.

    A number without bounds is drawn from N(0, 1), and one with one bound at the distance |N(0, 1)| from it.

    Args:
        repeat: number of steps that an action is held; held actions explore further.
    """

    def __init__(self, *, repeat: int = 1) -> None:
        self.repeat = repeat

    def reset(self, seeds: Sequence[int], space: Space, steps: int) -> None:
        draws = -(-steps // self.repeat)
        rngs = [np.random.default_rng(s) for s in seeds]
        if isinstance(space, gymnasium.spaces.Discrete):
            self.actions = np.stack([rng.integers(space.n, size=draws) for rng in rngs], 1)
        else:
            drawn = [_uniform(space, draws, rng) for rng in rngs]
            self.actions = np.stack(drawn, 1).astype(np.float32)

    def act(self, observations: np.ndarray, infos: dict[str, Any], step: int) -> np.ndarray:
        return self.actions[step // self.repeat]


class NoisyExpertPolicy(Policy):
    """The expert of the environment, `info["expert_action"]`, with Gaussian noise, clipped to the action space.

    Args:
        noise: standard deviation of the noise, in units of the action.
        repeat_share: fraction of steps that repeat the previous action.
    """

    def __init__(self, *, noise: float, repeat_share: float = 0.0) -> None:
        self.noise = noise
        self.repeat_share = repeat_share

    def reset(self, seeds: Sequence[int], space: Space, steps: int) -> None:
        space = _continuous(space, "NoisyExpertPolicy")
        self.low, self.high = space.low, space.high
        rngs = [np.random.default_rng(s) for s in seeds]
        self.draws = np.stack([rng.normal(0, self.noise, (steps, *space.shape)) for rng in rngs], 1)
        self.repeats = np.stack([rng.random(steps) < self.repeat_share for rng in rngs], 1)
        self.repeats[0] = False
        self.last = np.zeros((len(rngs), *space.shape), np.float32)

    def act(self, observations: np.ndarray, infos: dict[str, Any], step: int) -> np.ndarray:
        if "expert_action" not in infos:
            raise ValueError(
                'the info of the environment has no "expert_action"; expected one for NoisyExpertPolicy. Choose another dataset.policy'
            )
        action = np.clip(infos["expert_action"] + self.draws[step], self.low, self.high).astype(np.float32)
        self.last = np.where(self.repeats[step][:, None], self.last, action)
        return self.last


class SmoothPolicy(Policy):
    """Smooth random walks in the plane: the heading turns towards a target heading that is redrawn at random times.

    Exploration policy of H-JEPA (arXiv 2610.06805): turn' = 0.95 turn + 0.15 (target - heading) + noise; the speed is an
    Ornstein-Uhlenbeck process. The constants are the defaults of its code. Its benchmark sets others: 0.995, 0.015, a turn noise of 0.002,
    turns of at most 0.08, a speed noise of 0.005 and 50 steps between targets.

    Args:
        speed: mean norm of an action, in half-widths of the action space.
        switch_steps: mean number of steps between two target headings.
    """

    MEMORY = 0.95
    PULL = 0.15
    TURN_NOISE, MOST_TURN = 0.08, 0.5  # radians per step
    SPEED_NOISE, LEAST_SPEED = 0.05, 0.05

    def __init__(self, *, speed: float = 0.75, switch_steps: float = 40.0) -> None:
        self.speed = speed
        self.switch_steps = switch_steps

    def reset(self, seeds: Sequence[int], space: Space, steps: int) -> None:
        space = _continuous(space, "SmoothPolicy")
        if not _has_bound(space.low).all() or not _has_bound(space.high).all():
            raise ValueError(f"SmoothPolicy: the action space is {space}; expected one with bounds")
        if space.shape != (2,):
            raise ValueError(f"SmoothPolicy: the shape of an action is {space.shape}; expected (2,)")
        self.middle, self.half = (space.low + space.high) / 2, (space.high - space.low) / 2
        rngs = [np.random.default_rng(s) for s in seeds]
        heading, target = (np.array([rng.uniform(0, 2 * np.pi) for rng in rngs]) for _ in range(2))
        turn, speed = np.zeros(len(rngs)), np.full(len(rngs), self.speed)
        switches = np.stack([rng.random(steps) < 1 / self.switch_steps for rng in rngs], 1)
        targets = np.stack([rng.uniform(0, 2 * np.pi, steps) for rng in rngs], 1)
        turn_noise, speed_noise = np.stack([rng.normal(size=(2, steps)) for rng in rngs], 2)
        self.actions = np.zeros((steps, len(rngs), 2), np.float32)
        for t in range(steps):
            target = np.where(switches[t], targets[t], target)
            error = (target - heading + np.pi) % (2 * np.pi) - np.pi
            turn = self.MEMORY * turn + self.PULL * error + self.TURN_NOISE * turn_noise[t]
            turn = np.clip(turn, -self.MOST_TURN, self.MOST_TURN)
            heading = heading + turn
            speed = self.speed + self.MEMORY * (speed - self.speed) + self.SPEED_NOISE * speed_noise[t]
            speed = np.clip(speed, self.LEAST_SPEED, 1)
            self.actions[t] = np.stack([np.cos(heading), np.sin(heading)], 1) * speed[:, None]

    def act(self, observations: np.ndarray, infos: dict[str, Any], step: int) -> np.ndarray:
        return (self.middle + self.half * self.actions[step]).astype(np.float32)


class MixturePolicy(Policy):
    """Follows one of several policies for a whole episode; the seed of the episode decides which.

    Args:
        policies: the policies; all are equally likely.
    """

    def __init__(self, *, policies: Sequence[Policy]) -> None:
        self.policies = policies

    def reset(self, seeds: Sequence[int], space: Space, steps: int) -> None:
        self.chosen = np.array([np.random.default_rng([s, 1]).integers(len(self.policies)) for s in seeds])
        for policy in self.policies:
            policy.reset(seeds, space, steps)

    def act(self, observations: np.ndarray, infos: dict[str, Any], step: int) -> np.ndarray:
        actions = np.stack([policy.act(observations, infos, step) for policy in self.policies])
        return actions[self.chosen, np.arange(len(self.chosen))]


def _has_bound(bound: np.ndarray) -> np.ndarray:
    return np.abs(bound) < UNBOUNDED


def _uniform(space: gymnasium.spaces.Box, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Random actions, (draws, A)."""
    low, high = (np.where(_has_bound(bound), bound, np.nan) for bound in (space.low, space.high))
    one_sided = np.isnan(low) | np.isnan(high)
    uniform = rng.uniform(np.where(one_sided, 0, low), np.where(one_sided, 0, high), (draws, *space.shape))
    if not one_sided.any():
        return uniform
    normal = rng.normal(size=uniform.shape)
    from_bound = np.where(np.isnan(high), low + np.abs(normal), high - np.abs(normal))
    return np.where(one_sided, np.where(np.isnan(low) & np.isnan(high), normal, from_bound), uniform)


def _continuous(space: Space, policy: str) -> gymnasium.spaces.Box:
    if not isinstance(space, gymnasium.spaces.Box):
        raise ValueError(f"{policy}: the action space is {space}; expected a Box")
    return space
