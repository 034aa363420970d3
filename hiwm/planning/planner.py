"""Top-down planning: each level searches its own actions for the subgoal of the level above."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from hiwm.hierarchy import Hierarchy, Inputs
from hiwm.levels.action_encoders.raw import RawActionEncoder
from hiwm.planning.config import WEIGHTS, PlannerConfig
from hiwm.planning.fitted import Fitted
from hiwm.planning.goals import Aim, Goal, squared_distance
from hiwm.planning.graph.navigator import GraphNavigator
from hiwm.planning.memory import Memory
from hiwm.planning.plan import LevelPlan, Plan
from hiwm.planning.proposals import FREE
from hiwm.planning.requirements import candidates_of, check_fitted, check_levels, solvers_of
from hiwm.planning.schedule import Schedule
from hiwm.planning.search import LevelSearch, Passes, passes_of
from hiwm.planning.subgoals import Subgoals

NONE_FITTED = Fitted()


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
        fitted: Fitted = NONE_FITTED,
        allow: Sequence[str] = (),
        discrete: bool = False,
    ) -> None:
        check_levels(config, hierarchy)
        solvers = solvers_of(config, len(hierarchy), discrete, allow)
        samples = candidates_of(config, hierarchy, solvers)
        check_fitted(config, hierarchy, fitted)
        self.hierarchy = hierarchy
        self.config = config
        self.top = len(hierarchy) - 1
        self.ways = None
        if config.landmarks != "none":
            graph = fitted.graphs[self.top]
            self.ways = GraphNavigator(graph, self.top, config.hops, config.feedback, config.patience)
        self.schedule = None if config.schedule == "fixed" else Schedule(hierarchy.periods, config.horizon)
        self.passes = Passes()
        bounds = action_low.flatten(), action_high.flatten()
        #: what each level does by itself, bottom first
        self.levels = [
            LevelSearch(hierarchy, k, config, fitted, bounds, solvers[k], samples[k], discrete and k == 0, self.passes)
            for k in range(len(hierarchy))
        ]

    def start(self, goal: Goal, generator: torch.Generator) -> None:
        """Begin B episodes towards their goals."""
        if self.levels[self.top].proposal.asks_inverse and self.ways is None and goal.latent(self.top) is None:
            raise ValueError(
                f"planner.proposal[{self.top}] is {self.config.proposal[self.top]!r}; allowed: {', '.join(FREE)}, for "
                "an inverse model cannot be asked for a goal that is no whole observation"
            )
        if goal.part is None and any(level.to_go for level in self.levels):
            raise ValueError(
                f"planner.cost_to_go is {list(self.config.cost_to_go)}; allowed: 0 for every level, for {type(goal).__name__} "
                "is no goal on a part of the state (`Agent.part_goal`; or a dict, where goal.columns names the part)"
            )
        self.goal = goal
        self.step = 0
        self.memory = Memory(self.hierarchy)
        self.parts: list[LevelPlan | None] = [None] * len(self.hierarchy)
        #: what became of those each level but the lowest handed down
        self.subgoals: dict[int, Subgoals] = {}
        for level in self.levels:
            level.start(goal, self.memory, generator)
        if self.ways is not None:
            self.ways.start(goal)
        if self.schedule is not None:
            self.schedule.start(goal)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the environments only."""
        self.goal = self.goal.keep(rows)
        self.memory.keep(rows)
        self.parts = [None if part is None else part.keep(rows) for part in self.parts]
        for level in self.levels:
            level.keep(rows, self.goal)
        for subgoals in self.subgoals.values():
            subgoals.keep(rows)
        if self.ways is not None:
            self.ways.select(rows, self.goal)
        if self.schedule is not None:
            self.schedule.keep(rows, self.goal)

    @torch.no_grad()
    def plan(self, observation: Inputs) -> Plan:
        """The plan for this environment step; parts that are not due for replanning are kept.

        When a waypoint is reached in any of the environments, all levels plan anew; with feedback, when a subgoal failed in any,
        the level that handed it down and all below it. Both are looked for when level 0 plans.

        Args:
            observation: each input (B, ...).
        """
        began = time.perf_counter()
        self.passes.predictor = self.passes.other = 0
        due = [k for k in range(self.top, -1, -1) if self.step % self.config.replan[k] == 0]
        if due:
            latents = self.hierarchy.encode(observation)
            self.passes.other += self.goal.size * len(latents)
            moved = self._observe(latents)
            failed = self._judge(latents)
            for k in [k for k in range(self.top, -1, -1) if k in due or k <= failed or moved]:
                self.parts[k] = self._plan_level(k, latents)
        steps = tuple(part for part in self.parts if part is not None)
        action = self._primitive(steps[0]).cpu()  # waits for the device, so that the time is true
        self.memory.append(observation, action.to(self.hierarchy.device))
        self.step += 1
        milliseconds = 1000 * (time.perf_counter() - began)
        batch = self.goal.size
        return Plan(steps, action, milliseconds, self.passes.predictor / batch, self.passes.other / batch)

    def _observe(self, latents: Sequence[Tensor]) -> bool:
        """Whether what was seen has changed the goal of any episode: a waypoint is reached."""
        goal, changed = self.goal.observe(latents)
        if not changed.any():
            return False
        self.goal = goal
        for level in self.levels:
            level.goal = goal
        if self.ways is not None:
            self.ways.update_goal(goal, changed)
        if self.schedule is not None:
            self.schedule.renew(goal, changed)
        return True

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
            here, weight = squared_distance(latents[k + 1], above.subgoal), self.config.weight("goal_weight", k)
            if weight:
                here = here + weight * self.goal.energy(k, latent)
            aim, left = self._subgoal(k, above.subgoal), steps / period
        elif self.ways is None:
            aim, left = Aim(self.goal.latent(k), k, partial(self.goal.energy, k)), self.config.horizon[k]
            here = self.goal.energy(k, latent)
        else:
            aim, left = self.ways.target(latent, self.step), self.ways.deadline / period
            here, route = aim.energy(latent[:, None, None])[:, 0, 0], self.ways.path
        # an inverse model is asked for a latent, which a goal on a part of the state is not
        may_take_over = self.levels[k].searches or self.goal.latent(k) is not None
        schedule = self.schedule if may_take_over else None
        if schedule is not None:
            aim = schedule.aim(k, aim, self.step)
            here = torch.where(schedule.at_goal(k, self.step), self.goal.energy(k, latent), here)
        if k == self.top > 0 and self.ways is not None and self.config.landmarks == "direct":
            assert aim.latent is not None, "a landmark is one latent"
            part = LevelPlan(k, aim.latent, k, aim.latent, self.ways.deadline, self.step, here, route=route)
        else:
            part = self.levels[k].plan(latent, aim, left, self.step, here, self._penalty(k, latent, here), route)
        if schedule is not None:
            assert part.predicted is not None, "no landmarks: every level searches or follows"
            part = replace(part, horizon=schedule.planned(k, part.predicted, self.step))
        # a level can tell whether the subgoal is within reach if it looks that far and minds nothing else
        elif (
            k < self.top
            and self.config.horizon[k] * period >= steps
            and not any(self.config.weight(w, k) for w in WEIGHTS)
        ):
            assert part.nearest is not None, "a level below searches or follows"
            self.subgoals[k + 1].answer(above.made_at, part.nearest)
        if k == 0:
            return part
        self.subgoals[k].hand_down(latent, part.subgoal, self.step, part.due)
        return replace(part, verdict=self.subgoals[k].verdict)

    def _subgoal(self, k: int, target: Tensor) -> Aim:
        """A latent of the level above level k, and the goal as far as level k is to mind it."""
        weight = self.config.weight("goal_weight", k)

        def energy(latent: Tensor) -> Tensor:
            self.passes.other += passes_of(latent) * latent[..., 0].numel()
            above = self.hierarchy.levels[k + 1].encode({"latent": latent})
            away = squared_distance(above, target)
            return away + weight * self.goal.energy(k, latent) if weight else away

        return Aim(target, k + 1, energy)

    def _penalty(self, k: int, latent: Tensor, here: Tensor) -> Callable[[Tensor], Tensor | None]:
        """What ways of level k cost for trying again what failed, (B, S, H, D) -> (B, S, H); None where nothing has."""
        if not self._learns(k) or not self.subgoals[k].handed.failed.any():
            return lambda predicted: None
        price = self.config.feedback * here[:, None, None]
        return lambda predicted: price * self.subgoals[k].cost(latent, predicted)

    def _learns(self, k: int) -> bool:
        """Whether the level's own failed subgoals change what it searches for; those of a graph are the graph's matter."""
        return k > 0 and self.config.feedback > 0 and self.levels[k].searches

    def _primitive(self, part: LevelPlan) -> Tensor:
        assert part.actions is not None, "level 0 always acts"
        age = self.step - part.made_at
        stride = self.hierarchy.strides[0]
        encoder = self.hierarchy.levels[0].action_encoder
        assert isinstance(encoder, RawActionEncoder), "checked before training"
        chunk = encoder.decode(part.actions[:, age // stride])
        return chunk[:, age % stride]
