"""Top-down planning: the top level plans towards the goal, each level below towards the subgoal of the level above."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from hiwm.hierarchy import Hierarchy, Inputs, encode_through
from hiwm.planning.config import PlannerConfig
from hiwm.planning.contracts import check_decision, raise_if_nan, warn_if_over_budget
from hiwm.planning.costs import Cost, Evaluator
from hiwm.planning.counter import ForwardCounter
from hiwm.planning.describe import describe
from hiwm.planning.explain.alternatives import CandidateLog
from hiwm.planning.goals import Goal
from hiwm.planning.history import History
from hiwm.planning.horizon import HorizonSchedule
from hiwm.planning.model import LevelModel
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.plan import LevelPlan, Plan
from hiwm.planning.reachability import ReachabilityCheck
from hiwm.planning.rollout import Rollout
from hiwm.planning.strategies.strategy import Problem, Strategy
from hiwm.planning.subgoals import SubgoalMonitor
from hiwm.planning.targets import Navigator, SubgoalCost, Target


class HierarchicalPlanner:
    """Plans for a batch of B environments that run in step. With one level it is the flat planner.

    `start` begins B episodes, `plan` is called at every environment step, and `select` goes on with some of the episodes.
    `hiwm.planning.assemble.make_planner` makes a planner from a config.

    Args:
        hierarchy: the levels; all of them plan.
        config: budget, replanning and what failures cost.
        models: one per level, bottom first.
        strategies: how each level plans.
        costs: what each level minimises besides the distance to its target, by name.
        reachability: checks of the plans of some levels, by level.
        navigator: gives the top level its targets.
        horizon: how far each level looks ahead, and which levels plan for the goal itself.
        counter: counts the models' forward passes.
        budgets: predictor calls per episode that one plan of each level may take.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        config: PlannerConfig,
        models: Sequence[LevelModel],
        strategies: Sequence[Strategy],
        costs: Sequence[Mapping[str, Cost]],
        reachability: Mapping[int, ReachabilityCheck],
        navigator: Navigator,
        horizon: HorizonSchedule,
        counter: ForwardCounter,
        budgets: Sequence[float],
    ) -> None:
        self.hierarchy, self.config = hierarchy, config
        self.models, self.strategies, self.costs = models, strategies, costs
        self.reachability, self.navigator = reachability, navigator
        self.horizon, self.counter = horizon, counter
        self.budgets, self.top = budgets, len(models) - 1
        self.encoders = [model.encode for model in models]
        self.over_budget: set[int] = set()  # levels that have been warned of

    def start(self, goal: Goal, noise: EpisodeNoise) -> None:
        """Begin B episodes towards their goals, with the random numbers of each. After an error, start again before `plan`."""
        if self.strategies[self.top].needs_latent and self.config.graph == "none" and not goal.has_latent(self.top):
            raise ValueError(
                f"the goal is a {goal.kind}; expected a whole observation, because planner.level{self.top} plans towards one "
                f"latent. Or set planner.level{self.top}.strategy=search and a proposal without inverse"
            )
        self._start_costs(goal)  # these may refuse the goal
        self.horizon.start(goal)
        self.navigator.start(goal)
        for strategy in self.strategies:
            strategy.start()
        self.goal, self.noise, self.step = goal, noise, 0
        self.history = History(self.hierarchy, partial(encode_through, self.encoders))
        self.plans: list[LevelPlan | None] = [None] * len(self.models)
        #: watches the subgoals of each level but the lowest
        self.subgoal_monitors = {k: self._subgoal_monitor(k) for k in range(1, self.top + 1)}

    def select(self, rows: Tensor) -> None:
        """Continue with some of the environments only, given as indices, (N,)."""
        self.goal, self.noise = self.goal.select(rows), self.noise.select(rows)
        self.plans = [None if plan is None else plan.select(rows) for plan in self.plans]
        for part in (self.history, *self.strategies, *self.subgoal_monitors.values()):
            part.select(rows)
        self._start_costs(self.goal)
        self.navigator.select(rows, self.goal)
        self.horizon.select(rows, self.goal)

    @torch.no_grad()
    def plan(self, observation: Inputs) -> Plan:
        """The plan for this environment step, after an observation with each input (B, ...).

        A level that is not due (`planner.level<k>.replan`) keeps its plan, also when its subgoal has failed or a waypoint is
        reached. If that made it replan, the other environments of the batch would replan too.
        """
        began = time.perf_counter()
        self.counter.reset()
        due = [k for k in range(self.top, -1, -1) if self.step % self.config.replan(k) == 0]
        if due:
            latents = encode_through(self.encoders, observation)
            self._observe_goal(latents)
            self.horizon.observe(latents)
            for k, monitor in self.subgoal_monitors.items():
                monitor.observe(latents[k], self.step)
            for k in due:
                self.plans[k] = self._plan_level(k, latents)
        plans = tuple(plan for plan in self.plans if plan is not None)
        assert len(plans) == len(self.models), "all levels plan at step 0"
        assert plans[0].actions is not None, "level 0 always acts"
        action = self.models[0].primitive(plans[0].actions, self.step - plans[0].planned_at)
        self.history.append(observation, action)
        action = action.cpu()  # `.cpu()` synchronises; without it the measured time would leave out the device's work
        raise_if_nan(cost for costs in self.costs for cost in costs.values())
        self.step += 1
        return Plan(plans, action, 1000 * (time.perf_counter() - began), *self.counter.per_episode(self.goal.size))

    def _plan_level(self, k: int, latents: Sequence[Tensor]) -> LevelPlan:
        """Level k plans towards the subgoal of the level above, or, at the top, on the way to the goal."""
        target, current_cost = self._target(k, latents)
        target = self.horizon.target(k, target, self.step)
        current_cost = self.horizon.current_cost(k, latents[k], current_cost, self.step)
        model, latent, before = self.models[k], latents[k], self.counter.predictor
        evaluator = Evaluator(
            target,
            self.costs[k],
            penalty=self.subgoal_monitors[k].penalty(current_cost) if k else None,
            constraint=partial(self.goal.violation, k),
            committed=min(model.horizon, model.steps(self.config.replan(k))),
            log=CandidateLog() if k else None,  # level 0 hands nothing down
        )
        problem = Problem(
            model=model, latent=latent, history=self.history, target=target, evaluate=evaluator, budget=self.budgets[k],
            step=self.step, noise=self.noise, time_limit=self.config.seconds,
        )  # fmt: skip
        decision = self.strategies[k].plan(problem)
        if k in self.reachability:
            decision = self.reachability[k](problem, decision, latents[k - 1])
        check_decision(k, decision, latent, model.horizon, self.models[0].steps(self.config.replan(0)))
        if not isinstance(self.config.level(k).strategy, str):
            spent = (self.counter.predictor - before) / self.goal.size
            warn_if_over_budget(k, spent, self.budgets[k], self.over_budget)
        rollout = decision.rollout
        goal_within = None if rollout is None else self.horizon.note_plan(k, rollout.latents[:, 0], self.step)
        plan = describe(problem, decision, current_cost, goal_within)
        self._report_reach(k, plan, target.deadline)
        if k == 0:
            return plan
        followed = self.horizon.follows_subgoal(k - 1, self.step)
        self.subgoal_monitors[k].hand_down(latent, plan.subgoal, self.step, plan.deadline, followed)
        return replace(plan, outcome=self.subgoal_monitors[k].outcome)

    def _target(self, k: int, latents: Sequence[Tensor]) -> tuple[Target, Tensor]:
        """What level k plans towards, and the cost of staying where it is, (B,)."""
        if k == self.top:
            target = self.navigator.target(latents[k], self.step)
            return target, target.cost(Rollout.staying(latents[k]))[:, 0, 0]
        above = self.plans[k + 1]
        assert above is not None, "levels plan from the top"
        subgoal, deadline = above.subgoal_at(self.step, self.models[k + 1].period)
        model, weight = self.models[k + 1], self.config.level(k).goal_weight or 0.0
        cost = SubgoalCost(model.encode_latent, subgoal, self.goal, k, weight, model.p)
        return Target(cost, subgoal, k + 1, deadline, goal=cost.of_goal), cost.of(latents[k], latents[k + 1])

    def _report_reach(self, k: int, plan: LevelPlan, deadline: int) -> None:
        """Report how near a plan comes to the subgoal of the level above, if level k can tell that it is out of reach.

        It can if it looks as far ahead as the deadline, has no costs of its own, and never plans for the goal instead.
        """
        if k == self.top or self.horizon.may_plan_for_goal(k) or self.config.level(k).has_more_costs:
            return
        above, nearest, predicted = self.plans[k + 1], plan.nearest, plan.predicted
        assert above is not None, "levels plan from the top"
        if self.step >= above.planned_at + above.deadline:  # it plans towards a later subgoal
            return
        if nearest is not None and predicted is not None and predicted.shape[1] * self.models[k].period >= deadline:
            self.subgoal_monitors[k + 1].report_reach(above.planned_at, nearest)

    def _subgoal_monitor(self, k: int) -> SubgoalMonitor:
        penalty = self.config.failure_penalty if self.strategies[k].searches else 0.0  # edges fail in the navigator
        like = self.hierarchy.levels[k].predictor.scale.expand(self.goal.size, -1)
        return SubgoalMonitor(self.models[k].step_cost, self.models[k].p, self.config.patience, penalty, like)

    def _observe_goal(self, latents: Sequence[Tensor]) -> None:
        """Continue to the next waypoint in the episodes that have reached one."""
        goal, changed = self.goal.observe(latents)
        if goal is self.goal:
            return
        self.goal = goal
        self._start_costs(goal)
        self.navigator.update_goal(goal, changed)
        self.horizon.update_goal(goal, changed)

    def _start_costs(self, goal: Goal) -> None:
        for cost in (cost for costs in self.costs for cost in costs.values()):
            cost.start(goal)
