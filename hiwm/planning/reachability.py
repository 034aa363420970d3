"""Chooses among the best plans by where the level below gets, so that a subgoal out of its reach is not handed down.

A model of long steps predicts some that do not exist, for instance through a wall. The level below predicts shorter steps, and often
knows better.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hiwm.open_loop import Unrolled, in_blocks, mapped, unroll
from hiwm.planning.model import LevelModel
from hiwm.planning.strategies.strategy import Decision, Problem


class ReachabilityCheck:
    """Chooses among the best plans of a level by where the level below gets when it follows them.

    The level below takes the actions of this level's inverse model towards one latent of a plan after another, each for one step
    of this level. The plan is then scored again, with the latents that are reached in this way. A plan through a wall ends at the
    wall, and so loses against one around it.

    The time this takes is not part of `planner.milliseconds`. A warm start goes on from the plan that the search chose, and Lagrange
    multipliers are those of that plan.

    Args:
        model: of the level that plans.
        below: of the level below.
        number: plans that are compared: the best, and the best others whose first latents differ from its own and each other.
    """

    def __init__(self, model: LevelModel, below: LevelModel, number: int) -> None:
        self.model, self.below, self.number = model, below, number
        #: steps of the level below in one step of this level
        self.stride = below.steps(model.period)

    @property
    def calls(self) -> int:
        """Predictor calls per episode that a check takes."""
        return self.number * self.model.horizon * (self.model.passes + self.stride * self.below.passes)

    def __call__(self, problem: Problem, decision: Decision, latent_below: Tensor) -> Decision:
        """The decision, or one for another plan.

        Args:
            problem: of the level, whose strategy has evaluated its candidates.
            decision: of the strategy.
            latent_below: where the episodes are, in latents of the level below, (B, D_below).
        """
        log, rollout = problem.evaluate.log, decision.rollout
        assert log is not None, "checked: the level hands down"
        assert rollout is not None, "checked: it searches"
        others = log.distinct(problem.latent, decision.subgoal, self.number - 1)
        plans = problem.rollout(torch.cat([rollout.actions, others.actions], 1))
        reached = replace(plans, latents=self.followed(problem, plans.latents, latent_below))
        cost = problem.evaluate.in_detail(reached, tried=plans).scores.without_nan().penalised()
        cost = torch.cat([cost[:, :1], torch.where(others.found, cost[:, 1:], torch.inf)], 1)
        return Decision.of(self.model, plans.take(cost.argmin(1, keepdim=True)), decision.multipliers)

    def followed(self, problem: Problem, plans: Tensor, latent_below: Tensor) -> Tensor:
        """Where the level below gets by following latents (B, N, H, D) one after another, in latents of this level, (B, N, H, D)."""
        below, stride, number = self.below, self.stride, plans.shape[1]
        inverse = below.inverses[self.model.k]

        def run(latent: Tensor, state: Any, subgoals: Tensor) -> Unrolled:
            def choose(step: int, latent: Tensor) -> Tensor:
                left = torch.full_like(latent[:, 0], stride - step % stride)
                return below.actions.clamp(inverse(latent, subgoals[:, step // stride], left))

            return unroll(below.predictor, latent, state, choose, stride * subgoals.shape[1])

        def repeated(rows: Tensor) -> Tensor:
            return rows.repeat_interleave(number, 0)

        state = mapped(below.memory(problem.history, latent_below), repeated)
        path = in_blocks(run, repeated(latent_below), state, plans.flatten(0, 1)).latents
        return self.model.encode_latent(path[:, stride - 1 :: stride]).unflatten(0, (-1, number))
