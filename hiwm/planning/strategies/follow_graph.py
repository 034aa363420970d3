"""Hand the next node of the landmark graph to the level below as it is."""

from __future__ import annotations

from hiwm.planning.strategies.strategy import Decision, Problem, Strategy


class FollowGraph(Strategy):
    """The target, a node of the graph or the goal, is the subgoal."""

    searches = False

    def plan(self, problem: Problem) -> Decision:
        """See `Strategy`."""
        target = problem.target
        assert target.latent is not None, "a node is one latent"
        return Decision(target.latent, target.deadline)
