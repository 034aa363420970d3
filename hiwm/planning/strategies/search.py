"""Search a level's actions with a solver."""

from __future__ import annotations

import math
import time
from typing import Any

from torch import Tensor

from hiwm.planning.action_space import ActionSpace
from hiwm.planning.model import LevelModel
from hiwm.planning.rollout import Rollout
from hiwm.planning.solvers.solver import Scores, Solver
from hiwm.planning.strategies.proposals import Proposer
from hiwm.planning.strategies.strategy import Decision, Problem, Strategy


class Search(Strategy):
    """Minimise the cost of predicted plans.

    Args:
        solver: the search method.
        proposer: says where to search.
        warm_start: also try what the last search ended with, shifted by the steps since.
    """

    def __init__(self, solver: Solver[Any], proposer: Proposer, warm_start: bool = False) -> None:
        self.solver, self.proposer, self.warm_start = solver, proposer, warm_start
        self.needs_inverse = proposer.config.needs_inverse
        self.start()

    def start(self) -> None:
        """See `Strategy`."""
        #: what the last search ended with, (B, G, C, F), and its environment step
        self.last: tuple[Tensor, int] | None = None

    def select(self, rows: Tensor) -> None:
        """See `Strategy`."""
        if self.last is not None:
            self.last = self.last[0][rows], self.last[1]

    def samples(self, model: LevelModel, calls: float) -> int:
        """Candidates in a round, so that a plan takes `calls` predictor calls per episode."""
        # to score the real sequences is one more round; guesses take the place of random candidates
        rounds = self.solver.rollouts + (self.proposer.config.center == "retrieval")
        return round(calls / (rounds * model.horizon * model.passes))

    def check(self, model: LevelModel, calls: float) -> None:
        """See `Strategy`."""
        samples = self.samples(model, calls)
        if samples < self.solver.min_samples:
            raise ValueError(
                f"planner.budget gives level {model.k} {samples} candidates in a round; expected at least "
                f"{self.solver.min_samples}. Raise planner.budget or planner.level{model.k}.replan, or lower "
                f"planner.level{model.k}.horizon or the rounds of planner.solver"
            )

    def space(self, model: LevelModel) -> ActionSpace:
        """What is chosen: around real macro-actions within their quantiles, else within the level's bounds."""
        if model.k == 0 or self.proposer.config.center != "retrieval":
            return model.actions
        assert model.bank is not None, "checked at the start"
        return model.actions.bounded(model.bank.low, model.bank.high)

    def plan(self, problem: Problem) -> Decision:
        """See `Strategy`."""
        limit = problem.time_limit
        deadline = math.inf if limit is None else time.perf_counter() + limit
        model, space = problem.model, self.space(problem.model)
        decode = model.flow if self.proposer.config.center == "flow" else None

        def rollout(choices: Tensor) -> Rollout:
            return model.rollout(problem.latent, space.expand(choices, self.proposer.hold), decode)

        def objective(choices: Tensor) -> Scores:
            return problem.evaluate(rollout(choices))

        samples = self.samples(model, problem.calls)
        proposal = self.proposer.propose(
            space, problem.latent, model.horizon, samples, bank=model.bank, objective=objective,
            inverse=lambda: model.follow_inverse(problem.latent, problem.target, space.clamp).actions[:, 0],
            previous=self._previous(problem),
        )  # fmt: skip
        found = self.solver.solve(objective, proposal, samples, problem.generator, deadline)
        self.last = found.kept, problem.step
        return Decision.of(model, rollout(found.actions.unsqueeze(1)), found.multipliers)

    def _previous(self, problem: Problem) -> Any:
        """The last search's result as guesses; None for the first search and without a warm start."""
        if not self.warm_start or self.last is None:
            return None
        kept, planned_at = self.last
        unit = problem.model.period if problem.model.k else 1  # level 0 chooses primitive actions
        steps = (problem.step - planned_at) // unit
        return lambda mean: ActionSpace.shifted(kept, self.proposer.hold, steps, mean)
