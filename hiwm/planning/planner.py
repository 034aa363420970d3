"""Top-down planning: each level searches its own actions for the subgoal of the level above."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hiwm.build import build
from hiwm.hierarchy import Hierarchy, Inputs
from hiwm.levels.action_encoders.raw import RawActionEncoder
from hiwm.levels.precision import half_precision
from hiwm.planning.calibration import check_disagreement
from hiwm.planning.config import WEIGHTS, PlannerConfig
from hiwm.planning.fitted import Fitted
from hiwm.planning.goals import Aim, Goal, beside, squared_distance
from hiwm.planning.memory import Memory, repeated
from hiwm.planning.plan import LevelPlan, Plan
from hiwm.planning.proposals import (
    FREE,
    REAL,
    Mixture,
    SearchSpace,
    anywhere,
    around,
    best_of_bank,
    from_bank,
    like_real,
    trying,
)
from hiwm.planning.reasons import Route
from hiwm.planning.rejected import Tried
from hiwm.planning.rollout import Rollout, follow, in_blocks
from hiwm.planning.schedule import Schedule
from hiwm.planning.solvers.solver import GRADIENT_COST, Energy, Proposal, Scores, Solver
from hiwm.planning.subgoals import Subgoals
from hiwm.planning.wayfinder import Wayfinder

NOTHING = Fitted()


class HierarchicalPlanner:
    """Plans for a batch of environments that run in step.

    The flat planner is this with one level and landmarks none; flat + landmarks, with one level and landmarks.

    Args:
        hierarchy: the levels; all of them plan.
        config: how.
        action_low, action_high: bounds of primitive actions, (A,).
        fitted: what config asks for: of landmarks the graph over the top level's latents.
        allow: packages trusted for the solver's class besides hiwm's own.
        discrete: whether primitive actions are one-hot vectors.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        config: PlannerConfig,
        action_low: Tensor,
        action_high: Tensor,
        fitted: Fitted = NOTHING,
        allow: Sequence[str] = (),
        discrete: bool = False,
    ) -> None:
        config.check(len(hierarchy))
        landmarks = fitted.graphs[len(hierarchy) - 1] if fitted.graphs else None
        if config.landmarks != "none" and landmarks is None:
            raise ValueError(
                f"planner.landmarks is {config.landmarks!r} but the hierarchy has no graph on its top level"
            )
        if config.replan[0] > config.horizon[0] * hierarchy.periods[0]:
            raise ValueError(
                f"planner.replan[0] is {config.replan[0]} steps; allowed: at most its horizon, "
                f"{config.horizon[0] * hierarchy.periods[0]}"
            )
        if config.horizon[0] * hierarchy.strides[0] % config.repeat[0]:
            raise ValueError(
                f"planner.repeat[0] is {config.repeat[0]} environment steps; allowed: a divisor of the horizon, "
                f"{config.horizon[0] * hierarchy.strides[0]} steps"
            )
        asks_inverse = [Mixture.of(name).asks_inverse for name in config.proposal]
        if len(hierarchy) == 1 and asks_inverse[0] and hierarchy.strides[0] > 1:
            raise ValueError(
                f"planner.proposal[0] is {config.proposal[0]!r}; allowed: {', '.join(FREE)}, for a single "
                f"level of stride {hierarchy.strides[0]} has no level above to propose its chunks of actions"
            )
        for k in range(len(hierarchy)):
            above = min(k + 1, len(hierarchy) - 1)
            asked = asks_inverse[k] and not 0 < k == above
            if asked and hierarchy.levels[above].inverse is None:
                raise ValueError(
                    f"planner.proposal[{k}] is {config.proposal[k]!r}; allowed: {', '.join(FREE)}, for level "
                    f"{above} has no inverse model"
                )
        self.hierarchy = hierarchy
        self.config = config
        self.top = len(hierarchy) - 1
        self.ways = None
        if landmarks is not None and config.landmarks != "none":
            self.ways = Wayfinder(landmarks, self.top, config.hops, config.feedback, config.patience)
        self.schedule = None if config.schedule == "fixed" else Schedule(hierarchy.periods, config.horizon)
        self.precision = half_precision(hierarchy.device) if config.half_precision else nullcontext()
        self.macros = fitted.macros
        self._check_macros()
        self.calibrations = [*fitted.calibrations, *[None] * len(hierarchy)][: len(hierarchy)]
        for k, (weight, known) in enumerate(zip(config.disagreement, self.calibrations, strict=False)):
            if weight:
                steps = 0 if known is None else known.steps
                check_disagreement(k, weight, hierarchy.levels[k].predictor, steps, config.horizon[k])
        self.priors = [*fitted.priors, *[None] * len(hierarchy)][: len(hierarchy)]
        self.costs = [*fitted.costs, *[None] * len(hierarchy)][: len(hierarchy)]
        config.check_learned(
            len(hierarchy),
            [k for k, prior in enumerate(self.priors) if prior is not None],
            [k for k, cost in enumerate(self.costs) if cost is not None],
        )
        self.discrete = discrete
        self.solvers: list[Solver[Any]] = [build(config.solver, allow)] * len(hierarchy)
        if discrete:
            if config.discrete_solver is None:
                raise ValueError("planner.discrete_solver is null; allowed: a solver, for the actions are discrete")
            self.solvers[0] = build(config.discrete_solver, allow)
        self.bounds = (action_low.flatten(), action_high.flatten())
        self.spaces = [self._space(k) for k in range(len(hierarchy))]
        self.samples = self._samples()

    def start(self, goal: Goal, generator: torch.Generator) -> None:
        """Begin B episodes towards their goals."""
        if self._proposal(self.top).asks_inverse and self.ways is None and goal.latent(self.top) is None:
            raise ValueError(
                f"planner.proposal[{self.top}] is {self.config.proposal[self.top]!r}; allowed: {', '.join(FREE)}, for "
                "an inverse model cannot be asked for a goal that is no whole observation"
            )
        if goal.part is None and any(self._weight("cost_to_go", k) for k in range(len(self.hierarchy))):
            raise ValueError(
                f"planner.cost_to_go is {list(self.config.cost_to_go)}; allowed: 0 for every level, for {type(goal).__name__} "
                "is no goal on a part of the state (`Agent.part_goal`; or a dict, where goal.columns names the part)"
            )
        self.generator = generator
        self.goal = goal
        self.step = 0
        self.memory = Memory(self.hierarchy)
        self.parts: list[LevelPlan | None] = [None] * len(self.hierarchy)
        #: what became of those each level but the lowest handed down
        self.subgoals: dict[int, Subgoals] = {}
        # what each level's last search ended with, (B, G, C, F)
        self.kept: list[Tensor | None] = [None] * len(self.hierarchy)
        if self.ways is not None:
            self.ways.start(goal)
        if self.schedule is not None:
            self.schedule.start(goal)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the environments only."""
        self.goal = self.goal.keep(rows)
        self.memory.keep(rows)
        self.parts = [None if part is None else part.keep(rows) for part in self.parts]
        self.kept = [None if kept is None else kept[rows] for kept in self.kept]
        for subgoals in self.subgoals.values():
            subgoals.keep(rows)
        if self.ways is not None:
            self.ways.keep(rows, self.goal)
        if self.schedule is not None:
            self.schedule.keep(rows, self.goal)

    @torch.no_grad()
    def plan(self, observation: Inputs) -> Plan:
        """The plan for this environment step; parts that are not due for replanning are kept.

        With feedback, a level plans anew, and all below it, when a subgoal of its failed in any of the environments; it is
        looked for when level 0 plans.

        Args:
            observation: each input (B, ...).
        """
        began = time.perf_counter()
        self.calls = self.other_calls = 0
        due = [k for k in range(self.top, -1, -1) if self.step % self.config.replan[k] == 0]
        if due:
            latents = self.hierarchy.encode(observation)
            self.other_calls += self.goal.size * len(latents)
            goal = self.goal.observe(latents)
            if goal is not self.goal:
                self.goal = goal
                if self.ways is not None:
                    self.ways.renew(goal)
                if self.schedule is not None:
                    self.schedule.start(goal)
            failed = self._judge(latents)
            for k in [k for k in range(self.top, -1, -1) if k in due or k <= failed]:
                self.parts[k] = self._plan_level(k, latents)
        steps = tuple(part for part in self.parts if part is not None)
        action = self._primitive(steps[0]).cpu()  # waits for the device, so that the time is true
        self.memory.append(observation, action.to(self.hierarchy.device))
        self.step += 1
        milliseconds = 1000 * (time.perf_counter() - began)
        batch = self.goal.size
        return Plan(steps, action, milliseconds, self.calls / batch, self.other_calls / batch)

    def _judge(self, latents: Sequence[Tensor]) -> int:
        """See what became of the subgoals; the highest level that has to think again, -1 for none."""
        if self.step == 0:
            lengths = [level.predictor.scale.norm().item() for level in self.hierarchy.levels]
            self.subgoals = {
                k: Subgoals(lengths[k], self.config.patience, self._learns(k), latents[k])
                for k in range(1, len(latents))
            }
        failed = {k: subgoals.judge(latents[k], self.step) for k, subgoals in self.subgoals.items()}
        return max((k for k in failed if self._learns(k) and failed[k].any()), default=-1)

    def _plan_level(self, k: int, latents: Sequence[Tensor]) -> LevelPlan:
        latent, period, route = latents[k], self.hierarchy.periods[k], None
        if k < self.top:
            above = self.parts[k + 1]
            assert above is not None, "levels plan from the top"
            steps = above.due - (self.step - above.made_at)
            here, weight = squared_distance(latents[k + 1], above.subgoal), self._weight("goal_weight", k)
            if weight:
                here = here + weight * self.goal.energy(k, latent)
            aim, left = self._subgoal(k, above.subgoal), steps / period
        elif self.ways is None:
            aim, left = Aim(self.goal.latent(k), k, partial(self.goal.energy, k)), self.config.horizon[k]
            here = self.goal.energy(k, latent)
        else:
            aim, left = self.ways.next(latent, self.step), self.ways.due / period
            here, route = aim.energy(latent[:, None, None])[:, 0, 0], self.ways.route
        if self.schedule is not None:
            aim = self.schedule.aim(k, aim, self.step)
            here = torch.where(self.schedule.at_goal(k, self.step), self.goal.energy(k, latent), here)
        if k == self.top > 0 and self.ways is not None and self.config.landmarks == "direct":
            assert aim.latent is not None, "a landmark is one latent"
            part = LevelPlan(k, aim.latent, k, aim.latent, self.ways.due, self.step, here, route=route)
        else:
            part = self._solve(k, latent, aim, left, here, route)
        if self.schedule is not None:
            assert part.predicted is not None, "no landmarks: every level searches or follows"
            part = replace(part, horizon=self.schedule.planned(k, part.predicted, self.step))
        # a level can tell whether the subgoal is within reach if it looks that far and minds nothing else
        elif k < self.top and self.config.horizon[k] * period >= steps and not any(self._weight(w, k) for w in WEIGHTS):
            assert part.nearest is not None, "a level below searches or follows"
            self.subgoals[k + 1].answer(above.made_at, part.nearest)
        if k == 0:
            return part
        self.subgoals[k].hand_down(latent, part.subgoal, self.step, part.due)
        return replace(part, verdict=self.subgoals[k].verdict)

    def _subgoal(self, k: int, target: Tensor) -> Aim:
        """A latent of the level above level k, and the goal as far as level k is to mind it."""
        weight = self._weight("goal_weight", k)

        def energy(latent: Tensor) -> Tensor:
            self.other_calls += passes_of(latent) * latent[..., 0].numel()
            above = self.hierarchy.levels[k + 1].encode({"latent": latent})
            away = squared_distance(above, target)
            return away + weight * self.goal.energy(k, latent) if weight else away

        return Aim(target, k + 1, energy)

    def _solve(
        self, k: int, latent: Tensor, aim: Aim, steps_left: float, here: Tensor, route: Route | None
    ) -> LevelPlan:
        """What level k does towards an aim, of which it is `here` by energy, (B,)."""
        limit = self.config.milliseconds
        deadline = math.inf if limit is None else time.perf_counter() + limit / 1000
        level, space = self.hierarchy.levels[k], self.spaces[k]
        latents, done, passes = self.memory.context(k, latent)
        self.other_calls += passes * len(latent)
        self.calls += level.predictor.passes * done.shape[0] * done.shape[1]
        present = level.predictor.remember(latents, done)

        if self._proposal(k).first == "inverse":
            way = self._follow_inverse(k, latent, present, aim, steps_left)
            actions, predicted, variance = way.actions, way.latents, way.variance
            reached = aim.energy(predicted.unsqueeze(1)).amin(-1).squeeze(1)
            forbidden = self.goal.violation(k, predicted)
            return LevelPlan(
                k, aim.latent, aim.level, predicted[:, 0], self.hierarchy.periods[k], self.step, here, actions, predicted,
                reached, reached, None if variance is None else variance.sum(-1),
                violation=None if forbidden is None else forbidden.sum(-1, keepdim=True), route=route,
            )  # fmt: skip

        again = self._again(k, latent, here)
        tried = Tried()
        doubts, to_go = self._weight("disagreement", k), self._weight("cost_to_go", k)
        known = self.calibrations[k]

        def judged(candidates: Tensor) -> tuple[Rollout, Tensor, Tensor | None, Scores]:
            """Ways (B * S, H, ...) of candidates (B, S, C, F), how near they come (B, S), for having failed (B, S, H), all."""
            samples = candidates.shape[1]
            chosen = space.actions(candidates.flatten(0, 1))  # (B * S, H, A)
            ways = self._rollout(k, repeated(latent, samples), repeated(present, samples), chosen)
            predicted, variance = ways.latents.unflatten(0, (-1, samples)), ways.variance
            forbidden = self.goal.violation(k, predicted)
            violation = None if forbidden is None else forbidden.sum(-1, keepdim=True)
            near, cost = aim.energy(predicted), again(predicted)
            away = near
            if to_go:
                away = away + to_go * self._cost_to_go(k, predicted)
            if doubts:
                assert known is not None, "checked at the start"
                assert variance is not None, "checked at the start"
                away = away + doubts * known.doubt(variance).unflatten(0, (-1, samples))
            # the least over the horizon, not its mean or last: a detour must not be taxed
            scores = Scores((away if cost is None else away + cost).amin(-1), violation)
            return ways, near.amin(-1), cost, scores

        def energy(candidates: Tensor) -> Scores:
            with self.precision:
                ways, _, cost, scores = judged(candidates)
            if k > 0:
                first = ways.latents[:, 0].unflatten(0, candidates.shape[:2])
                tried.add(first, scores, None if cost is None else cost[:, :, 0])
            return scores

        proposal = self._propose(k, latent, present, aim, steps_left, energy)
        found = self.solvers[k].solve(energy, proposal, self.samples[k], self.generator, deadline)
        self.kept[k] = found.kept
        way, nearest, cost, scores = judged(found.actions.unsqueeze(1))  # in full precision
        scores = scores.without_nan()
        actions, predicted, variance = way.actions, way.latents, way.variance
        return LevelPlan(
            k, aim.latent, aim.level, predicted[:, 0], self.hierarchy.periods[k], self.step, here, actions, predicted,
            nearest[:, 0], scores.energy[:, 0], None if variance is None else variance.sum(-1),
            None if cost is None else cost[:, 0, 0], None if scores.violation is None else scores.violation[:, 0],
            found.multipliers, tried.rejected(latent, predicted[:, 0]) if k > 0 else None, route,
            to_go=self._cost_to_go(k, torch.cat([latent.unsqueeze(1), predicted], 1)) if to_go else None,
        )  # fmt: skip

    def _rollout(self, k: int, latent: Tensor, carried: Any, chosen: Tensor) -> Rollout:
        """Where choices of level k lead, (B, D), what its predictor carries along there, (B, H, A)."""
        predictor = self.hierarchy.levels[k].predictor
        prior = self.priors[k] if self._proposal(k).first == "prior" else None
        passes = passes_of(chosen) * chosen.shape[0] * chosen.shape[1]
        self.calls += predictor.passes * passes
        self.other_calls += 0 if prior is None else prior.passes * passes

        def run(latent: Tensor, carried: Any, chosen: Tensor) -> Rollout:
            def choose(h: int, here: Tensor) -> Tensor:
                return chosen[:, h] if prior is None else prior(here, chosen[:, h])

            return follow(predictor, latent, carried, choose, chosen.shape[1])

        return in_blocks(run, latent, carried, chosen)

    def _cost_to_go(self, k: int, latent: Tensor) -> Tensor:
        """Steps of level k to the goal, (B, ..., D) -> (B, ...)."""
        cost, part = self.costs[k], self.goal.part
        assert cost is not None, "checked at the start"
        assert part is not None, "checked when episodes begin"
        self.other_calls += passes_of(latent) * latent[..., 0].numel()
        return cost(latent, beside(part, latent))

    def _again(self, k: int, latent: Tensor, here: Tensor) -> Callable[[Tensor], Tensor | None]:
        """What plans of level k cost for trying again what failed, (B, S, H, D) -> (B, S, H); None where nothing has."""
        if not self._learns(k) or not self.subgoals[k].handed.failed.any():
            return lambda predicted: None
        price = self.config.feedback * here[:, None, None]
        return lambda predicted: price * self.subgoals[k].cost(latent, predicted)

    def _learns(self, k: int) -> bool:
        """Whether the level's own failed subgoals change what it searches for; those of a graph are the graph's matter."""
        return k > 0 and self.config.feedback > 0 and self._searches(k)

    def _shifted(self, k: int, mean: Tensor) -> Tensor | None:
        """What level k's last search ended with, from now on; the proposal's mean (B, C, F) after its end."""
        part, kept = self.parts[k], self.kept[k]
        if part is None or kept is None:
            return None
        unit = self.hierarchy.periods[k] if k else 1  # environment steps; level 0 chooses primitive actions
        return self.spaces[k].shifted(kept, (self.step - part.made_at) // unit, mean)

    def _propose(
        self,
        k: int,
        latent: Tensor,
        present: Any,
        aim: Aim,
        steps_left: float,
        energy: Energy,
    ) -> Proposal:
        """Where level k searches; arguments as in `_solve`."""
        name, space = self._proposal(k), self.spaces[k]
        asked = None
        if name.asks_inverse:
            asked = space.choices(self._follow_inverse(k, latent, present, aim, steps_left).actions)
        if name.first in ("gaussian", "prior"):
            proposal = anywhere(space, len(latent), self.config.std[k])
        elif name.first == "queue":
            proposal = like_real(space, len(latent), self.macros[k])
        elif name.first == "bank":
            mean = best_of_bank(space, self.macros[k], latent, self.samples[k], energy)
            proposal = around(space, mean, self.config.inverse_std[k])
        else:
            assert asked is not None, "inverse+search"
            proposal = around(space, asked, self.config.inverse_std[k])
        if self.config.warm_start:
            proposal = replace(proposal, guesses=self._shifted(k, proposal.mean))
        if asked is not None and "inverse" in name.guesses:
            proposal = trying(proposal, asked.unsqueeze(1))
        if "bank" in name.guesses:
            proposal = trying(proposal, from_bank(space, self.macros[k], latent, -(-self.samples[k] // 2)))
        return proposal

    def _follow_inverse(self, k: int, latent: Tensor, carried: Any, aim: Aim, steps_left: float) -> Rollout:
        """Actions of level k that the inverse model of the aim's level asks for, step by predicted step.

        Level k is at `latent`, (B, D), where its predictor carries `carried` along.
        """
        predictor, inverse, target = self.hierarchy.levels[k].predictor, self.hierarchy.levels[aim.level], aim.latent
        assert target is not None, "checked at the start"

        def ask(h: int, here: Tensor) -> Tensor:
            left = torch.full(here.shape[:1], max(1.0, steps_left - h), device=here.device)
            return self.spaces[k].clamp(inverse.delegate(here, target, left))

        steps = self.config.horizon[k]
        self.calls += predictor.passes * len(latent) * steps
        self.other_calls += len(latent) * steps
        return follow(predictor, latent, carried, ask, steps)

    def _proposal(self, k: int) -> Mixture:
        """The level's proposal; above level 0 a top level has no inverse model above it and searches from a Gaussian."""
        name = Mixture.of(self.config.proposal[k])
        return name.without_inverse() if 0 < k == self.top else name

    def _weight(self, name: str, k: int) -> float:
        """Level k's entry of one of `WEIGHTS`."""
        weights = getattr(self.config, name)
        return weights[k] if weights else 0.0

    def _searches(self, k: int) -> bool:
        return self.config.searches(k, self.top)

    def _check_macros(self) -> None:
        for k in range(self.top + 1):
            name, horizon = self._proposal(k), self.config.horizon[k]
            if not (name.first in REAL or name.asks_bank) or not self._searches(k):
                continue
            if k >= len(self.macros):
                raise ValueError(
                    f"planner.proposal[{k}] is {self.config.proposal[k]!r} but the hierarchy has no real actions of level "
                    f"{k} saved; allowed: gaussian, inverse, inverse+search, gaussian+inverse, or `hiwm train` again"
                )
            if name.asks_bank and horizon > self.macros[k].longest:
                raise ValueError(
                    f"planner.horizon[{k}] is {horizon}; allowed: at most {self.macros[k].longest}, the longest sequence in "
                    f"the bank of level {k}. Train with a larger macros.length, unless the episodes are too short for it"
                )

    def _samples(self) -> list[int]:
        """Candidates a round for every level, so that together they take the budget."""
        searching = [k for k in range(self.top + 1) if self._searches(k)]
        samples = [0] * (self.top + 1)
        for k in searching:
            calls = self.config.budget / len(searching) * self.config.replan[k]
            passes = self.hierarchy.levels[k].predictor.passes
            # beginning at the bank's best is one more round; guesses stand in for random candidates
            rounds = self.solvers[k].cost + (self._proposal(k).first == "bank")
            samples[k] = round(calls / (rounds * self.config.horizon[k] * passes))
            if samples[k] < self.solvers[k].min_samples:
                raise ValueError(
                    f"planner.budget is {self.config.budget}: level {k} gets {samples[k]} candidates a round; allowed: at "
                    f"least {self.solvers[k].min_samples}. Raise the budget or planner.replan[{k}], or lower "
                    f"planner.horizon[{k}] or the rounds of planner.solver"
                )
        return samples

    def _space(self, k: int) -> SearchSpace:
        dim = self.hierarchy.levels[k].action_encoder.dim
        free, (low, high) = dim, self.bounds
        if k == 0:
            free = len(low)
        elif self._proposal(k).first in REAL and self._searches(k):
            low, high = self.macros[k].low, self.macros[k].high
        else:
            high = torch.tensor(self.config.macro_bound, device=low.device)
            low = -high
        return SearchSpace(
            self.config.horizon[k], dim, free, self.config.repeat[k], low, high, self.discrete and k == 0
        )

    def _primitive(self, part: LevelPlan) -> Tensor:
        assert part.actions is not None, "level 0 always acts"
        age = self.step - part.made_at
        stride = self.hierarchy.strides[0]
        encoder = self.hierarchy.levels[0].action_encoder
        assert isinstance(encoder, RawActionEncoder), "checked before training"
        chunk = encoder.decode(part.actions[:, age // stride])
        return chunk[:, age % stride]


def passes_of(x: Tensor) -> int:
    """What a pass through a network counts: more where the gradient is asked for."""
    return GRADIENT_COST if x.requires_grad else 1
