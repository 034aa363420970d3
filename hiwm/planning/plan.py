"""What a plan is made of: everything a person needs to see why the agent does this."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LevelPlan:
    """One level's part of a plan, for a batch of B environments.

    Args:
        level: whose.
        target: the latent to reach, (B, D of `target_level`); None for a goal that many latents meet.
        target_level: the level in whose latent space the target lies: this one, or the one above.
        subgoal: what is handed to the level below, a latent of this level (B, D).
        due: environment steps from `made_at` until the subgoal is due.
        made_at: environment step this part was planned at.
        actions: actions of this level, (B, H, A); None where a landmark was handed down as it is.
        predicted: the latents they lead to, (B, H, D); None with `actions`.
        energy: how far they stay from the target or goal, the least over the horizon, with what `planner.disagreement` adds,
            (B,); None with `actions`.
        disagreement: variance of the predicted latents among the members of an ensemble, summed over their dimensions,
            (B, H); None for other predictors.
    """

    level: int
    target: Tensor | None
    target_level: int
    subgoal: Tensor
    due: int
    made_at: int
    actions: Tensor | None = None
    predicted: Tensor | None = None
    energy: Tensor | None = None
    disagreement: Tensor | None = None

    def keep(self, rows: Tensor) -> LevelPlan:
        """The same for some of the environments."""

        def take(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        return LevelPlan(
            self.level, take(self.target), self.target_level, self.subgoal[rows], self.due, self.made_at,
            take(self.actions), take(self.predicted), take(self.energy), take(self.disagreement),
        )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The plan behind an action.

    Args:
        steps: one part a level, bottom first.
        action: the primitive action it puts out now, (B, A).
        milliseconds: time of the planning call, for the whole batch.
        predictor_calls: one-step predictions it took, an environment (mean over the batch).
        other_calls: passes through encoders and inverse models it took, likewise.
    """

    steps: tuple[LevelPlan, ...]
    action: Tensor
    milliseconds: float
    predictor_calls: float
    other_calls: float
