"""Follow the inverse model, without search."""

from __future__ import annotations

from hiwm.planning.strategies.strategy import Decision, Problem, Strategy


class FollowInverse(Strategy):
    """Take the actions of the inverse model towards the target."""

    searches = False
    needs_latent = True

    def plan(self, problem: Problem) -> Decision:
        return Decision.of(problem.model, problem.follow_inverse(problem.model.actions.clamp))
