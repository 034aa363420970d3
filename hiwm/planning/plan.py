"""Plans, and their explanation in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from hiwm.planning.explain.alternatives import Alternatives
from hiwm.planning.explain.cost_parts import CostParts
from hiwm.planning.explain.graph_path import GraphPath
from hiwm.planning.explain.outcome import SubgoalOutcome
from hiwm.planning.explain.records import BatchRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LevelPlan(BatchRecord):
    """The plan of one level, for B episodes.

    Args:
        level: number of the level.
        target: the latent to reach, (B, D of `target_level`), of several that meet the goal the nearest; None if the goal knows none. Where `goal_within` is
            above 0 the level plans for the goal instead.
        target_level: the level in whose latent space the target lies: this one, or the one above.
        subgoal: latent of this level that is handed to the level below, (B, D).
        deadline: environment steps from `planned_at` until the subgoal should be reached.
        planned_at: environment step of the plan.
        current_cost: cost of the present latent with respect to the target or goal, (B,).
        actions: planned actions of this level, (B, H, A); at level 0 in the units of the environment. These and the fields below are None where a node of the graph is handed down as it is.
        predicted: predicted latents after each action, (B, H, D).
        nearest: least cost of the target or goal alone over the horizon, (B,).
        cost: least total cost over the horizon, with the level's own costs and the failure penalty, (B,).
        parts: the parts of `cost`.
        disagreement: variance of the predicted latents among the members of an ensemble, summed over their dimensions,
            (B, H); None for other predictors.
        penalty: share of `cost` that is due to earlier failures, (B,); None where nothing failed.
        violation: maximum violation of the goal's constraint up to the step of least cost or the next replan, whichever is
            later, (B, 1); positive if violated. None without a constraint.
        multipliers: Lagrange multiplier of the constraint, (B, 1), of solvers that find it.
        alternatives: other subgoals that the search evaluated; None at level 0 and without a search.
        path: path over the landmark graph; None without a graph.
        value: predicted steps of this level to the goal, now and after each action, (B, H + 1); None without
            `planner.level<k>.value_weight`.
        outcome: outcome of the level's last subgoal; None at level 0.
        goal_within: steps of this level within which it must meet the goal, (B,); 0 where it plans towards a subgoal. None
            without `planner.shrinking_horizon`.
    """

    level: int
    target: Tensor | None
    target_level: int
    subgoal: Tensor
    deadline: int
    planned_at: int
    current_cost: Tensor
    actions: Tensor | None = None
    predicted: Tensor | None = None
    nearest: Tensor | None = None
    cost: Tensor | None = None
    parts: CostParts | None = None
    disagreement: Tensor | None = None
    penalty: Tensor | None = None
    violation: Tensor | None = None
    multipliers: Tensor | None = None
    alternatives: Alternatives | None = None
    path: GraphPath | None = None
    value: Tensor | None = None
    outcome: SubgoalOutcome | None = None
    goal_within: Tensor | None = None

    def subgoal_at(self, step: int, period: int) -> tuple[Tensor, int]:
        """The subgoal, (B, D), at an environment step, and the environment steps until its deadline, at least 1.

        Once the deadline has passed, it is the first predicted latent that is still ahead, or the last one.

        Args:
            step: environment step.
            period: environment steps in one step of the level.
        """
        age = step - self.planned_at
        if age < self.deadline or self.predicted is None:
            return self.subgoal, max(1, self.deadline - age)
        index = min(age // period, self.predicted.shape[1] - 1)
        return self.predicted[:, index], max(1, (index + 1) * period - age)

    def explain(self, episode: int = 0) -> str:
        """What the level plans towards and why, what it hands down and what it rejected, in words."""
        lines = [f"level {self.level}, planned at step {self.planned_at}, plans towards {self._towards(episode)}"]
        lines[0] += f"; cost {_numbers(self.current_cost, episode)} now"
        if self.nearest is not None and self.cost is not None:
            nearest, cost = _numbers(self.nearest, episode), _numbers(self.cost, episode)
            lines[0] += f", {cost} at its cheapest step" + (
                f" (at least {nearest} without other costs)" if cost != nearest else ""
            )
        if self._meets_goal_within(episode):
            lines.append(f"must meet the goal within {self._meets_goal_within(episode)} of its steps")
        if self.value is not None:
            now, *then = (f"{steps:.1f}" for steps in self.value[episode].tolist())
            lines.append(f"predicts {now} of its steps to the goal; after each action {', '.join(then)}")
        if self.violation is not None:
            lines.append(self._constraints(episode))
        if self.level > 0:
            lines.append(self._hands_down(episode))
        if self.alternatives is not None and self.cost is not None:
            others = self.alternatives.text(episode, float(self.cost[episode]))
            lines.append(f"rejected {'; '.join(others) if others else 'nothing distinct'}")
        if self.outcome is not None and (outcome := self.outcome.text(episode)):
            lines.append(outcome)
        return "\n  ".join(lines)

    def plot(self, latents: Axes, costs: Axes, episode: int = 0) -> None:
        """Draw the predicted latents with subgoal and target, and the costs."""
        from hiwm.planning.explain.plot import draw_costs, draw_latents

        others, bars = {}, {"now": float(self.current_cost[episode])}
        if self.nearest is not None and self.cost is not None:
            bars["at the cheapest step"] = float(self.cost[episode])
            bars["least without other costs"] = float(self.nearest[episode])
        if (rejected := self.alternatives) is not None:
            for i, cost in enumerate(rejected.cost[episode].tolist(), 1):
                if cost < float("inf"):
                    others[f"rejected {i}"] = rejected.subgoal[episode, i - 1].cpu().numpy()
                    bars[f"rejected {i}"] = cost
        subgoal = self.subgoal[episode].cpu().numpy()
        path = subgoal[None][:0] if self.predicted is None else self.predicted[episode].cpu().numpy()
        target = self.target if self.target_level == self.level else None
        draw_latents(latents, path, subgoal, None if target is None else target[episode].cpu().numpy(), others)
        draw_costs(costs, bars)
        latents.set_title(f"level {self.level}, planned at step {self.planned_at}", loc="left", fontsize=10)

    def _meets_goal_within(self, episode: int) -> int:
        return 0 if self.goal_within is None else int(self.goal_within[episode])

    def _towards(self, episode: int) -> str:
        if self.target_level > self.level:
            skipped = self._meets_goal_within(episode) > 0
            return (
                f"the goal itself, past level {self.target_level}"
                if skipped
                else f"the subgoal of level {self.target_level}"
            )
        if self.path is not None:
            return self.path.text(episode)
        return "the goal"

    def _constraints(self, episode: int) -> str:
        assert self.violation is not None, "called only with constraints"
        violated = (self.violation[episode] > 0).any()
        line = (
            f"violates its constraints by {_numbers(self.violation, episode)}" if violated else "keeps its constraints"
        )
        return line if self.multipliers is None else f"{line}, with multipliers {_numbers(self.multipliers, episode)}"

    def _hands_down(self, episode: int) -> str:
        what = "hands it down," if self.cost is None else "hands down a subgoal"
        line = f"{what} to be reached by step {self.planned_at + self.deadline}"
        if self.penalty is None or not self.penalty[episode] > 0:
            return line
        return f"{line}, {_numbers(self.penalty, episode)} of its cost because it failed before"


@dataclass(frozen=True)
class Plan:
    """The plan behind an action.

    Args:
        levels: one plan per level, bottom first.
        action: the primitive action to take now, (B, A), on the CPU.
        milliseconds: time of the planning call, for the whole batch.
        predictor_calls: predictor forward passes per episode, mean over the batch: M per step for an ensemble of M, 3 with a gradient.
        other_calls: forward passes of encoders, inverse models, action priors and value heads, likewise; goal readouts are not
            counted.
    """

    levels: tuple[LevelPlan, ...]
    action: Tensor
    milliseconds: float
    predictor_calls: float
    other_calls: float

    def explain(self, episode: int = 0) -> str:
        """Why the agent acts as it does: a few lines per level, the top one first, and the action. Distances are between latents."""
        action = ", ".join(f"{value:.3g}" for value in self.action[episode].tolist())
        return "\n".join([*(level.explain(episode) for level in reversed(self.levels)), f"action {action}"])

    def plot(self, episode: int = 0) -> Figure:
        """A picture of the plan of every level, the top one first: its latents in a plane, and its costs."""
        from matplotlib.figure import Figure  # takes a while to import, and acting does not need it

        figure = Figure(figsize=(9, 3.2 * len(self.levels)), layout="constrained")
        grid = figure.subplots(len(self.levels), 2, squeeze=False, width_ratios=(3, 2))
        for (latents, costs), level in zip(grid, reversed(self.levels), strict=True):
            level.plot(latents, costs, episode)
        return figure

    def __repr__(self) -> str:
        handed = ", ".join(f"level {level.level} planned at step {level.planned_at}" for level in reversed(self.levels))
        return f"Plan({handed}; actions {tuple(self.action.shape)}, {self.predictor_calls:.0f} predictor calls)"


def _numbers(values: Tensor, episode: int) -> str:
    return ", ".join(f"{value:.3g}" for value in values[episode].flatten().tolist())
