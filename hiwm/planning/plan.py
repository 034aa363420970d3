"""What a plan is made of: everything a person needs to see why the agent does this."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hiwm.planning.graph.path import GraphPath
from hiwm.planning.reasons import Verdict, keep_rows
from hiwm.planning.rejected import Rejected


@dataclass(frozen=True)
class LevelPlan:
    """One level's part of a plan, for a batch of B environments.

    Args:
        level: whose.
        target: the latent to reach, (B, D of `target_level`); None for a goal that many latents meet. Where `horizon` is
            above 0 the level aims at the goal in its place.
        target_level: the level in whose latent space the target lies: this one, or the one above.
        subgoal: what is handed to the level below, a latent of this level (B, D).
        due: environment steps from `made_at` until the subgoal is due.
        made_at: environment step this part was planned at.
        here: the energy of staying where it is, how far that is from the target or goal, (B,).
        actions: actions of this level, (B, H, A); None where a landmark was handed down as it is.
        predicted: the latents they lead to, (B, H, D); None with `actions`.
        nearest: how near they come to the target or goal, the least energy of that over the horizon, (B,); None with `actions`.
        energy: what the search made least: the same with what `planner.cost_to_go`, `planner.disagreement` and failures
            before add, (B,); None with `actions`.
        disagreement: variance of the predicted latents among the members of an ensemble, summed over their dimensions,
            (B, H); None for other predictors.
        penalty: what of `energy` is for trying again what failed before, (B,); None where nothing has.
        violation: of each constraint, the worst up to where the energy is least, or the next plan, (B, K): positive is forbidden; None without any.
        multipliers: their prices, (B, K), of solvers that find them.
        rejected: other subgoals that the search tried; None at level 0 and where there was no search.
        route: that the target lies on, of a target among landmarks.
        to_go: steps of this level to the goal, by what the level has learned of them, from here and after each action, (B, H + 1);
            None where `planner.cost_to_go` does not count.
        verdict: on the level's last subgoal that was judged; None at level 0.
        horizon: steps of this level within which it is to meet the goal, (B,); 0 where it aims at a subgoal. None where
            `planner.schedule` is fixed.
    """

    level: int
    target: Tensor | None
    target_level: int
    subgoal: Tensor
    due: int
    made_at: int
    here: Tensor
    actions: Tensor | None = None
    predicted: Tensor | None = None
    nearest: Tensor | None = None
    energy: Tensor | None = None
    disagreement: Tensor | None = None
    penalty: Tensor | None = None
    violation: Tensor | None = None
    multipliers: Tensor | None = None
    rejected: Rejected | None = None
    route: GraphPath | None = None
    to_go: Tensor | None = None
    verdict: Verdict | None = None
    horizon: Tensor | None = None

    def keep(self, rows: Tensor) -> LevelPlan:
        """The same for some of the environments."""
        return keep_rows(self, rows)

    def explain(self, episode: int = 0) -> str:
        """What the level aims at and why, what it hands down and what it rejected, in words."""

        def told(values: Tensor | None) -> str:
            return "" if values is None else ", ".join(f"{value:.3g}" for value in values[episode].flatten().tolist())

        arrives = 0 if self.horizon is None else int(self.horizon[episode])
        if self.target_level > self.level:
            aim = (
                f"the goal itself, past level {self.target_level}"
                if arrives
                else f"the subgoal of level {self.target_level}"
            )
        elif self.route is not None:
            aim = self.route.text(episode)
        else:
            aim = "the goal itself" if self.target is not None else "any latent that meets the goal"
        lines = [f"level {self.level}, planned at step {self.made_at}, aims at {aim}; energy {told(self.here)} here"]
        if self.nearest is not None and self.energy is not None:
            lines[0] += f", {told(self.nearest)} where it plans to come"
            if told(self.energy) != told(self.nearest):
                lines[0] += f" ({told(self.energy)} with all that counts)"
        if arrives:
            lines.append(f"is to meet the goal within {arrives} of its steps")
        if self.to_go is not None:
            now, *then = (f"{left:.1f}" for left in self.to_go[episode].tolist())
            lines.append(f"has {now} of its steps to go, then {', '.join(then)}")
        if self.violation is not None:
            inside = (self.violation[episode] > 0).any()
            lines.append(
                f"enters what is forbidden by {told(self.violation)}" if inside else "stays out of what is forbidden"
            )
            if self.multipliers is not None:
                lines[-1] += f", at prices of {told(self.multipliers)}"
        if self.level > 0:
            lines.append(
                f"hands down {'that' if self.energy is None else 'a subgoal'} until step {self.made_at + self.due}"
            )
            if self.penalty is not None and self.penalty[episode] > 0:
                lines[-1] += f", at a cost of {told(self.penalty)} for what failed before"
        if self.rejected is not None and self.energy is not None:
            others = self.rejected.text(episode, float(self.energy[episode]))
            lines.append(f"rejected {'; '.join(others) if others else 'nothing much different'}")
        if self.verdict is not None and (verdict := self.verdict.text(episode)):
            lines.append(verdict)
        return "\n  ".join(lines)


@dataclass(frozen=True)
class Plan:
    """The plan behind an action.

    Args:
        steps: one part a level, bottom first.
        action: the primitive action it puts out now, (B, A).
        milliseconds: time of the planning call, for the whole batch.
        predictor_calls: one-step predictions it took, an environment (mean over the batch).
        other_calls: passes through all other networks it took: encoders, inverse models, priors, costs to go; likewise.
    """

    steps: tuple[LevelPlan, ...]
    action: Tensor
    milliseconds: float
    predictor_calls: float
    other_calls: float

    def explain(self, episode: int = 0) -> str:
        """Why the agent does this: a few lines a level, the top one first, and the action. Distances are of latents."""
        action = ", ".join(f"{value:.3g}" for value in self.action[episode].tolist())
        return "\n".join([*(part.explain(episode) for part in reversed(self.steps)), f"action {action}"])
