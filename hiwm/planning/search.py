"""What one level does towards its aim: it searches its own actions, or follows an inverse model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hiwm.hierarchy import Hierarchy
from hiwm.levels.precision import half_precision
from hiwm.planning.config import PlannerConfig
from hiwm.planning.fitted import Fitted
from hiwm.planning.goals import Aim, Goal, beside
from hiwm.planning.graph.path import GraphPath
from hiwm.planning.memory import Memory, repeated
from hiwm.planning.plan import LevelPlan
from hiwm.planning.proposals import (
    REAL,
    SearchSpace,
    anywhere,
    around,
    best_of_bank,
    from_bank,
    like_real,
    trying,
)
from hiwm.planning.rejected import Tried
from hiwm.planning.rollout import Rollout, follow, in_blocks
from hiwm.planning.solvers.solver import GRADIENT_PASSES, Objective, Proposal, Scores, Solver


@dataclass
class Passes:
    """Passes through networks since a plan was begun, of all episodes together.

    Args:
        predictor: one-step predictions; a backward pass counts as two.
        other: encoders, inverse models, priors and costs to go; not the readouts of goals.
    """

    predictor: int = 0
    other: int = 0


@dataclass(frozen=True)
class Judged:
    """What candidates are worth, and why. B episodes, S candidates each, H steps.

    Args:
        way: where they lead, (B * S, ...).
        nearest: how near they come to the aim, (B, S).
        penalty: what of the energy is for trying again what failed, (B, S); None where nothing has.
        scores: all that counts: the least energy over the steps, and the worst violation up to there or the next plan.
    """

    way: Rollout
    nearest: Tensor
    penalty: Tensor | None
    scores: Scores


class LevelSearch:
    """Plans for one level of a batch of B episodes.

    Args:
        hierarchy: all levels that plan.
        k: number of the level.
        config: how.
        fitted: what config asks for.
        bounds: of primitive actions, lowest and highest, (A,) each.
        solver: the search method.
        samples: candidates a round.
        discrete: whether the level's actions are one-hot vectors.
        passes: counts what its plans cost.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        k: int,
        config: PlannerConfig,
        fitted: Fitted,
        bounds: tuple[Tensor, Tensor],
        solver: Solver[Any],
        samples: int,
        discrete: bool,
        passes: Passes,
    ) -> None:
        top = len(hierarchy) - 1
        self.levels = hierarchy.levels
        self.k, self.predictor = k, hierarchy.levels[k].predictor
        self.period, self.horizon = hierarchy.periods[k], config.horizon[k]
        #: environment steps of one choice: level 0 chooses primitive actions
        self.unit = self.period if k else 1
        #: steps of the level between two of its plans, rounded up
        self.gone = min(self.horizon, -(-config.replan[k] // self.period))
        self.config = config
        self.proposal = config.mixture(k, top)
        self.searches = config.searches(k, top)
        self.prior = fitted.of("priors", k) if self.proposal.first == "prior" else None
        self.macros = fitted.of("macros", k)
        self.cost, self.calibration = fitted.of("costs", k), fitted.of("calibrations", k)
        self.to_go, self.doubts = config.weight("cost_to_go", k), config.weight("disagreement", k)
        self.precision = half_precision(hierarchy.device) if config.half_precision else nullcontext()
        self.solver = solver
        self.space = self._space(bounds, discrete)
        self.samples = samples
        self.passes = passes

    def start(self, goal: Goal, memory: Memory, generator: torch.Generator) -> None:
        """Begin B episodes towards their goals."""
        self.goal = goal
        self.memory = memory
        self.generator = generator
        #: what the last search ended with, (B, G, C, F), and the environment step it was made at
        self.last: tuple[Tensor, int] | None = None

    def keep(self, rows: Tensor, goal: Goal) -> None:
        """Go on with some of the episodes only; theirs is the goal."""
        self.goal = goal
        if self.last is not None:
            kept, made_at = self.last
            self.last = kept[rows], made_at

    def plan(
        self,
        latent: Tensor,
        aim: Aim,
        steps_left: float,
        step: int,
        here: Tensor,
        penalty: Callable[[Tensor], Tensor | None],
        route: GraphPath | None,
    ) -> LevelPlan:
        """What to do towards an aim.

        Args:
            latent: where the episodes are, (B, D).
            aim: what to reach.
            steps_left: of the level, until it is due.
            step: of the environment, from which on the plan holds.
            here: the energy of staying, (B,).
            penalty: what ways (B, S, H, D) cost for trying again what failed, (B, S, H); None where nothing has.
            route: that the aim lies on, for the plan to tell.
        """
        limit = self.config.milliseconds
        deadline = math.inf if limit is None else time.perf_counter() + limit / 1000
        latents, done, passes = self.memory.context(self.k, latent)
        self.passes.other += passes * len(latent)
        self.passes.predictor += self.predictor.passes * done.shape[0] * done.shape[1]
        present = self.predictor.remember(latents, done)
        if self.proposal.first == "inverse":
            way = self._follow_inverse(latent, present, aim, steps_left)
            nearest = aim.energy(way.latents.unsqueeze(1)).amin(-1).squeeze(1)
            forbidden = self.goal.violation(self.k, way.latents)
            return LevelPlan(
                self.k, aim.latent, aim.level, way.latents[:, 0], self.period, step, here, way.actions, way.latents,
                nearest, nearest, way.disagreement,
                violation=None if forbidden is None else forbidden.amax(-1, keepdim=True), route=route,
            )  # fmt: skip

        tried = Tried()

        def objective(candidates: Tensor) -> Scores:
            with self.precision:
                judged = self._judge(candidates, latent, present, aim, penalty)
            if self.k > 0:
                first = judged.way.latents[:, 0].unflatten(0, candidates.shape[:2])
                tried.add(first, judged.scores, judged.penalty)
            return judged.scores

        proposal = self._propose(latent, present, aim, steps_left, step, objective)
        found = self.solver.solve(objective, proposal, self.samples, self.generator, deadline)
        self.last = found.kept, step
        chosen = self._judge(found.actions.unsqueeze(1), latent, present, aim, penalty)  # in full precision
        way, scores = chosen.way, chosen.scores.without_nan()
        return LevelPlan(
            self.k, aim.latent, aim.level, way.latents[:, 0], self.period, step, here, way.actions, way.latents,
            chosen.nearest[:, 0], scores.cost[:, 0], way.disagreement,
            None if chosen.penalty is None else chosen.penalty[:, 0],
            None if scores.violation is None else scores.violation[:, 0],
            found.multipliers, tried.rejected(latent, way.latents[:, 0]) if self.k > 0 else None, route,
            to_go=self._cost_to_go(torch.cat([latent.unsqueeze(1), way.latents], 1)) if self.to_go else None,
        )  # fmt: skip

    def _judge(
        self,
        candidates: Tensor,
        latent: Tensor,
        present: Any,
        aim: Aim,
        penalty: Callable[[Tensor], Tensor | None],
    ) -> Judged:
        """Candidates (B, S, C, F) from latents (B, D), where the predictor carries `present` along."""
        samples = candidates.shape[1]
        choices = self.space.actions(candidates.flatten(0, 1))  # (B * S, H, A)
        way = self._rollout(repeated(latent, samples), repeated(present, samples), choices)
        predicted = way.latents.unflatten(0, (-1, samples))
        forbidden = self.goal.violation(self.k, predicted)
        near, again = aim.energy(predicted), penalty(predicted)
        away = near
        if self.to_go:
            away = away + self.to_go * self._cost_to_go(predicted)
        if self.doubts:
            assert self.calibration is not None, "checked at the start"
            assert way.variance is not None, "checked at the start"
            away = away + self.doubts * self.calibration.doubt(way.variance).unflatten(0, (-1, samples))
        if again is not None:
            away = away + again
        # the least over the horizon, not its mean or last: a detour must not be taxed
        energy, violation = away.amin(-1), None
        if again is None and forbidden is None:  # nobody asks at which step
            return Judged(way, near.amin(-1), None, Scores(energy))
        least = torch.where(away.isnan(), torch.inf, away).argmin(-1, keepdim=True)  # (B, S, 1)
        if again is not None:
            again = again.gather(-1, least).squeeze(-1)
        if forbidden is not None:  # up to there, but no less far than is gone before the next plan
            violation = forbidden.cummax(-1).values.gather(-1, least.clamp(min=self.gone - 1))
        return Judged(way, near.amin(-1), again, Scores(energy, violation))

    def _rollout(self, latent: Tensor, carried: Any, choices: Tensor) -> Rollout:
        """Where choices lead, from (B, D), where the predictor carries `carried` along, (B, H, A)."""
        passes = passes_of(choices) * choices.shape[0] * choices.shape[1]
        self.passes.predictor += self.predictor.passes * passes
        self.passes.other += 0 if self.prior is None else self.prior.passes * passes

        def run(latent: Tensor, carried: Any, choices: Tensor) -> Rollout:
            def choose(h: int, here: Tensor) -> Tensor:
                return choices[:, h] if self.prior is None else self.prior(here, choices[:, h])

            return follow(self.predictor, latent, carried, choose, choices.shape[1])

        return in_blocks(run, latent, carried, choices)

    def _cost_to_go(self, latent: Tensor) -> Tensor:
        """Steps of the level to the goal, (B, ..., D) -> (B, ...)."""
        assert self.cost is not None, "checked at the start"
        assert self.goal.part is not None, "checked when episodes begin"
        self.passes.other += passes_of(latent) * latent[..., 0].numel()
        return self.cost(latent, beside(self.goal.part, latent))

    def _propose(
        self, latent: Tensor, present: Any, aim: Aim, steps_left: float, step: int, objective: Objective
    ) -> Proposal:
        """Where to search; arguments as in `plan`."""
        name, space, config = self.proposal, self.space, self.config
        asked = None
        if name.asks_inverse:
            asked = space.choices(self._follow_inverse(latent, present, aim, steps_left).actions)
        if name.first in ("gaussian", "prior"):
            proposal = anywhere(space, len(latent), config.std[self.k])
        elif name.first == "queue":
            proposal = like_real(space, len(latent), self.macros)
        elif name.first == "bank":
            mean = best_of_bank(space, self.macros, latent, self.samples, objective)
            proposal = around(space, mean, config.inverse_std[self.k])
        else:
            assert asked is not None, "inverse+search"
            proposal = around(space, asked, config.inverse_std[self.k])
        if config.warm_start and self.last is not None:
            kept, made_at = self.last
            shifted = space.shifted(kept, (step - made_at) // self.unit, proposal.mean)
            proposal = replace(proposal, guesses=shifted)
        if asked is not None and "inverse" in name.guesses:
            proposal = trying(proposal, asked.unsqueeze(1))
        if "bank" in name.guesses:
            proposal = trying(proposal, from_bank(space, self.macros, latent, -(-self.samples // 2)))
        return proposal

    def _follow_inverse(self, latent: Tensor, carried: Any, aim: Aim, steps_left: float) -> Rollout:
        """The actions that the inverse model of the aim's level asks for, step by predicted step, from (B, D)."""
        inverse, target = self.levels[aim.level], aim.latent
        assert target is not None, "checked at the start"

        def ask(h: int, here: Tensor) -> Tensor:
            left = torch.full(here.shape[:1], max(1.0, steps_left - h), device=here.device)
            return self.space.clamp(inverse.delegate(here, target, left))

        self.passes.predictor += self.predictor.passes * len(latent) * self.horizon
        self.passes.other += len(latent) * self.horizon
        return follow(self.predictor, latent, carried, ask, self.horizon)

    def _space(self, bounds: tuple[Tensor, Tensor], discrete: bool) -> SearchSpace:
        dim, (low, high) = self.levels[self.k].action_encoder.dim, bounds
        free = len(low) if self.k == 0 else dim
        if self.k and self.proposal.first in REAL and self.searches:
            low, high = self.macros.low, self.macros.high
        elif self.k:
            high = torch.tensor(self.config.macro_bound, device=low.device)
            low = -high
        return SearchSpace(self.horizon, dim, free, self.config.repeat[self.k], low, high, discrete)


def passes_of(x: Tensor) -> int:
    """What a pass through a network counts: more where the gradient is asked for."""
    return GRADIENT_PASSES if x.requires_grad else 1
