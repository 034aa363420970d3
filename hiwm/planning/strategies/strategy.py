"""The interface of the strategies that plan for one level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from hiwm.planning.costs import Evaluator
from hiwm.planning.history import History
from hiwm.planning.model import LevelModel
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.rollout import Rollout
from hiwm.planning.targets import Target


@dataclass(frozen=True)
class Problem:
    """What a level has to plan now, for B episodes.

    Args:
        model: the level's networks.
        latent: where the episodes are, (B, D).
        history: what they observed and did before.
        target: what to plan towards.
        evaluate: rollout -> costs and constraint violations of its candidates; they become the plan's alternatives.
        budget: predictor calls per episode that the plan may take.
        step: environment step of the plan.
        noise: source of all randomness, a stream per episode.
        time_limit: seconds for the whole batch; None for no limit.
    """

    model: LevelModel
    latent: Tensor
    history: History
    target: Target
    evaluate: Evaluator
    budget: float
    step: int
    noise: EpisodeNoise
    time_limit: float | None = None

    @cached_property
    def memory(self) -> Any:
        """The predictor's recurrent state; computed for the first prediction."""
        return self.model.memory(self.history, self.latent)

    def rollout(self, actions: Tensor, decode: Callable[[Tensor, Tensor], Tensor] | None = None) -> Rollout:
        """Predict where candidates (B, S, H, A) lead; `decode` as in `LevelModel.rollout`."""
        return self.model.rollout(self.latent, self.memory, actions, decode)

    def root(self) -> Rollout:
        """One candidate of no steps, to extend."""
        latents = self.latent[:, None, None, :][:, :, :0]
        actions = self.latent.new_zeros(len(latents), 1, 0, self.model.actions.dim)
        return Rollout(self.latent, actions, latents, state=self.memory)

    def extend(self, rollout: Rollout, actions: Tensor) -> Rollout:
        """Predict one more step of s candidates; of the actions (B, S, A), candidate i takes S / s, from i * S / s on."""
        return self.model.extend(rollout, actions)

    def follow_inverse(self, clamp: Callable[[Tensor], Tensor]) -> Rollout:
        """Predict where the inverse model leads; `clamp` moves actions (B, A) into their bounds."""
        return self.model.follow_inverse(self.latent, self.memory, self.target, clamp)


@dataclass(frozen=True)
class Decision:
    """What a level does.

    Args:
        subgoal: latent of this level that is handed to the level below, (B, D).
        deadline: environment steps until it should be reached.
        rollout: the chosen actions and where they lead, one candidate per episode; None if the subgoal is not predicted.
        multipliers: Lagrange multiplier of the goal's constraint, (B, 1), of solvers that find it.
    """

    subgoal: Tensor
    deadline: int
    rollout: Rollout | None = None
    multipliers: Tensor | None = None

    @staticmethod
    def of(model: LevelModel, rollout: Rollout, multipliers: Tensor | None = None) -> Decision:
        """Take one candidate per episode. Its first latent is the subgoal, with a deadline after one step of the level."""
        return Decision(rollout.latents[:, 0, 0], model.period, rollout, multipliers)


class Strategy(ABC):
    """Plans for one level. Set `planner.level<k>.strategy._target_` to use one of your own.

    Attributes:
        searches: whether it evaluates candidates, and so takes a share of `planner.budget`.
        needs_latent: whether its target must be one latent, as for an inverse model.
    """

    searches: bool = True
    needs_latent: bool = False

    def check(self, model: LevelModel, calls: float) -> None:  # noqa: B027  # most strategies can always plan
        """Raise a ValueError if it cannot plan with this model and `calls` predictor calls; called before any planning."""

    def start(self) -> None:  # noqa: B027  # most strategies remember nothing
        """Begin new episodes."""

    def select(self, rows: Tensor) -> None:  # noqa: B027
        """Continue with some of the episodes, given as indices, (N,)."""

    @abstractmethod
    def plan(self, problem: Problem) -> Decision:
        """Plan for the present step."""
