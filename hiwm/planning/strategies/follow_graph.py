"""Hand the next node of the landmark graph down, without search."""

from __future__ import annotations

from hiwm.planning.strategies.strategy import Decision, Problem, Strategy


class FollowGraph(Strategy):
    """The target, a node of the graph or the goal, is the subgoal for the level below."""

    searches = False

    def plan(self, problem: Problem) -> Decision:
        target = problem.target
        assert target.latent is not None, "a node is one latent"
        return Decision(target.latent, target.deadline)
