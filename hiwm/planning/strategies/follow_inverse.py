"""Follow the inverse model, without search."""

from __future__ import annotations

from hiwm.planning.strategies.strategy import Decision, Problem, Strategy


class FollowInverse(Strategy):
    """Take the actions that the inverse model asks for on the way to the target."""

    searches = False
    needs_inverse = True

    def plan(self, problem: Problem) -> Decision:
        """See `Strategy`."""
        model = problem.model
        return Decision.of(model, model.follow_inverse(problem.latent, problem.target, model.actions.clamp))
