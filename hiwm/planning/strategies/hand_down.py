"""Hand the target down, without search."""

from __future__ import annotations

from hiwm.planning.strategies.strategy import Decision, Problem, Strategy


class HandDown(Strategy):
    """The target, the next landmark of a graph or the goal, is the subgoal for the level below."""

    searches, needs_latent = False, True

    def plan(self, problem: Problem) -> Decision:
        target = problem.target
        assert target.latent is not None, "checked at the start of the episodes"
        return Decision(target.latent, target.deadline)
