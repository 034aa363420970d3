"""What a planner's config needs: of the levels, which can be told before they are trained, and of what is fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hiwm.build import build
from hiwm.hierarchy import Hierarchy
from hiwm.planning.calibration import check_disagreement
from hiwm.planning.config import PlannerConfig
from hiwm.planning.fitted import Fitted
from hiwm.planning.proposals import FREE, REAL, Mixture
from hiwm.planning.solvers.solver import Solver


def solvers_of(config: PlannerConfig, number: int, discrete: bool, allow: Sequence[str] = ()) -> list[Solver[Any]]:
    """The search method of every level, bottom first; `discrete`: the actions of level 0 are one-hot vectors."""
    solvers: list[Solver[Any]] = [build(config.solver, allow)] * number
    if discrete:
        if config.discrete_solver is None:
            raise ValueError("planner.discrete_solver is null; allowed: a solver, for the actions are discrete")
        solvers[0] = build(config.discrete_solver, allow)
    return solvers


def candidates_of(config: PlannerConfig, hierarchy: Hierarchy, solvers: Sequence[Solver[Any]]) -> list[int]:
    """Candidates a round of every level, so that all together take the budget; 0 of levels that do not search."""
    top = len(hierarchy) - 1
    searching = [k for k in range(len(hierarchy)) if config.searches(k, top)]
    candidates = [0] * len(hierarchy)
    for k in searching:
        solver, passes = solvers[k], hierarchy.levels[k].predictor.passes
        # beginning at the bank's best is one more round; guesses stand in for random candidates
        rounds = solver.rollouts + (config.mixture(k, top).first == "bank")
        calls = config.budget / len(searching) * config.replan[k]
        candidates[k] = round(calls / (rounds * config.horizon[k] * passes))
        if candidates[k] < solver.min_samples:
            raise ValueError(
                f"planner.budget is {config.budget}: level {k} gets {candidates[k]} candidates a round; allowed: at "
                f"least {solver.min_samples}. Raise the budget or planner.replan[{k}], or lower "
                f"planner.horizon[{k}] or the rounds of planner.solver"
            )
    return candidates


def check_levels(config: PlannerConfig, hierarchy: Hierarchy) -> None:
    """Raise a ValueError that names the key when levels like these, trained or not, could not do what the config says."""
    config.check(len(hierarchy))
    _check_chunks(config, hierarchy)
    _check_inverse_models(config, hierarchy)


def check_fitted(config: PlannerConfig, hierarchy: Hierarchy, fitted: Fitted) -> None:
    """The same of what is fitted to them."""
    number = len(hierarchy)
    if config.landmarks != "none" and len(fitted.graphs) < number:
        raise ValueError(f"planner.landmarks is {config.landmarks!r} but the hierarchy has no graph on its top level")
    for k in range(number):
        if config.searches(k, number - 1):
            _check_macros(config, k, number - 1, fitted)
        if weight := config.weight("disagreement", k):
            known = fitted.of("calibrations", k)
            steps = 0 if known is None else known.steps
            check_disagreement(k, weight, hierarchy.levels[k].predictor, steps, config.horizon[k])
    learned = ([k for k in range(number) if fitted.of(kind, k) is not None] for kind in ("priors", "costs"))
    config.check_learned(number, *learned)


def _check_chunks(config: PlannerConfig, hierarchy: Hierarchy) -> None:
    """Level 0 chooses primitive actions, `stride` of them a step."""
    steps = config.horizon[0] * hierarchy.periods[0]
    if config.replan[0] > steps:
        raise ValueError(f"planner.replan[0] is {config.replan[0]} steps; allowed: at most its horizon, {steps}")
    if steps % config.repeat[0]:
        raise ValueError(
            f"planner.repeat[0] is {config.repeat[0]} environment steps; allowed: a divisor of the horizon, {steps} steps"
        )


def _check_inverse_models(config: PlannerConfig, hierarchy: Hierarchy) -> None:
    asks = [Mixture.of(name).asks_inverse for name in config.proposal]
    if len(hierarchy) == 1 and asks[0] and hierarchy.strides[0] > 1:
        raise ValueError(
            f"planner.proposal[0] is {config.proposal[0]!r}; allowed: {', '.join(FREE)}, for a single "
            f"level of stride {hierarchy.strides[0]} has no level above to propose its chunks of actions"
        )
    for k in range(len(hierarchy)):
        above = min(k + 1, len(hierarchy) - 1)
        if asks[k] and not 0 < k == above and hierarchy.levels[above].inverse is None:
            raise ValueError(
                f"planner.proposal[{k}] is {config.proposal[k]!r}; allowed: {', '.join(FREE)}, for level "
                f"{above} has no inverse model"
            )


def _check_macros(config: PlannerConfig, k: int, top: int, fitted: Fitted) -> None:
    name, horizon, macros = config.mixture(k, top), config.horizon[k], fitted.of("macros", k)
    if not (name.first in REAL or name.asks_bank):
        return
    if macros is None:
        raise ValueError(
            f"planner.proposal[{k}] is {config.proposal[k]!r} but the hierarchy has no real actions of level "
            f"{k} saved; allowed: gaussian, inverse, inverse+search, gaussian+inverse, or `hiwm train` again"
        )
    if name.asks_bank and horizon > macros.longest:
        raise ValueError(
            f"planner.horizon[{k}] is {horizon}; allowed: at most {macros.longest}, the longest sequence in "
            f"the bank of level {k}. Train with a larger macros.length, unless the episodes are too short for it"
        )
