"""The plan of one level with the reasons for it: what it costs and why, and how it differs from what it could have been."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from hiwm.planning.costs import ValueCost
from hiwm.planning.explain.cost_parts import CostParts
from hiwm.planning.plan import LevelPlan
from hiwm.planning.strategies.strategy import Decision, Problem


def describe(problem: Problem, decision: Decision, current_cost: Tensor, goal_within: Tensor | None) -> LevelPlan:
    """What a level decided, with the cost of its rollout in detail.

    Args:
        problem: what the level had to plan.
        decision: of its strategy.
        current_cost: cost of staying where the episodes are, (B,).
        goal_within: see `LevelPlan`.
    """
    model, target, rollout, evaluator = problem.model, problem.target, decision.rollout, problem.evaluate
    plan = LevelPlan(
        level=model.k, target=target.latent, target_level=target.level, subgoal=decision.subgoal,
        deadline=decision.deadline, planned_at=problem.step, current_cost=current_cost, path=target.path,
    )  # fmt: skip
    if rollout is None:
        return plan
    found = evaluator.in_detail(rollout)
    scores = found.scores.without_nan()
    value, log = evaluator.costs.get("value"), evaluator.log
    return replace(
        plan,
        actions=model.executable(rollout.actions[:, 0]),
        predicted=rollout.latents[:, 0],
        nearest=found.parts[0][1].amin(-1)[:, 0],
        cost=scores.cost[:, 0],
        parts=CostParts.of(found.parts, target.goal(rollout)),
        disagreement=None if rollout.variance is None else rollout.variance[:, 0].sum(-1),
        penalty=None if found.penalty is None else found.penalty[:, 0],
        violation=None if scores.violation is None else scores.violation[:, 0],
        multipliers=decision.multipliers,
        alternatives=None if log is None else log.alternatives(problem.latent, decision.subgoal),
        value=value.along(rollout) if isinstance(value, ValueCost) else None,
        goal_within=goal_within,
    )
