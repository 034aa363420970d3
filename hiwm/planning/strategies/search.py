"""Search a level's actions with a solver."""

from __future__ import annotations

import math
import time
from typing import Any

from torch import Tensor

from hiwm.planning.action_space import ActionSpace
from hiwm.planning.config import ProposalConfig
from hiwm.planning.model import LevelModel
from hiwm.planning.rollout import Rollout
from hiwm.planning.solvers.solver import Scores, Solver
from hiwm.planning.strategies.proposals import Proposer
from hiwm.planning.strategies.strategy import Decision, Problem, Strategy


class Search(Strategy):
    """Minimise the cost of predicted plans.

    Args:
        solver: the search method.
        proposal: where to begin.
        action_repeat: how long an action is repeated: in environment steps at level 0, in the level's own steps at all other levels.
        warm_start: also try the candidates that the last search kept, shifted by the steps since.
    """

    def __init__(
        self, solver: Solver[Any], proposal: ProposalConfig, action_repeat: int, warm_start: bool = False
    ) -> None:
        self.solver, self.proposal, self.action_repeat, self.warm_start = solver, proposal, action_repeat, warm_start
        self.needs_latent = proposal.needs_inverse
        self.start()

    def start(self) -> None:
        #: the last search's `Solution.kept`, (B, G, C, F), and its environment step
        self.last: tuple[Tensor, int] | None = None

    def select(self, rows: Tensor) -> None:
        if self.last is not None:
            self.last = self.last[0][rows], self.last[1]

    def samples(self, model: LevelModel, calls: float) -> int:
        """Candidates per round with which a plan takes `calls` predictor calls per episode."""
        # scoring the real sequences takes one more round; guesses replace random candidates and take none
        rounds = self.solver.cost_in_rounds + (self.proposal.center == "retrieval")
        return round(calls / (rounds * model.horizon * model.passes))

    def check(self, model: LevelModel, calls: float) -> None:
        samples = self.samples(model, calls)
        if samples < self.solver.min_samples:
            level = f"planner.level{model.k}"
            checks = f", {level}.check_subgoals" if model.k else ""
            raise ValueError(
                f"planner.budget gives level {model.k} {samples} candidates in a round; expected at least {self.solver.min_samples}. "
                f"Raise planner.budget or {level}.replan, or lower {level}.horizon{checks} or the rounds of planner.solver"
            )

    def space(self, model: LevelModel) -> ActionSpace:
        """The actions to search: near real macro-actions within their quantiles, else within the level's bounds."""
        real = model.bank if model.k and self.proposal.center == "retrieval" else None
        return model.actions if real is None else model.actions.bounded(real.low, real.high)

    def plan(self, problem: Problem) -> Decision:
        stop_at = math.inf if problem.time_limit is None else time.perf_counter() + problem.time_limit
        model, space = problem.model, self.space(problem.model)
        decode = model.flow if self.proposal.center == "flow" else None

        def rollout(choices: Tensor) -> Rollout:
            return problem.rollout(space.expand(choices, self.action_repeat), decode)

        def objective(choices: Tensor) -> Scores:
            return problem.evaluate(rollout(choices))

        samples = self.samples(model, problem.budget)
        proposer = Proposer(self.proposal, problem, space, self.action_repeat)
        proposal = proposer.proposal(samples, objective)
        if self.warm_start and self.last is not None:
            proposal = proposal.with_guesses(self._shifted(*self.last, problem, proposal.mean))
        for guesses in proposer.guesses(samples):
            proposal = proposal.with_guesses(guesses)
        found = self.solver.solve(objective, proposal, samples, problem.noise, stop_at)
        self.last = found.kept, problem.step
        return Decision.of(model, rollout(found.actions.unsqueeze(1)), found.multipliers)

    def _shifted(self, kept: Tensor, planned_at: int, problem: Problem, mean: Tensor) -> Tensor:
        """The choices that the last search kept, shifted to the present step; `mean` fills the end."""
        unit = problem.model.period if problem.model.k else 1  # level 0 chooses primitive actions
        return ActionSpace.shifted(kept, self.action_repeat, (problem.step - planned_at) // unit, mean)
