"""What a planner's config needs from the levels, which is known before they are trained, and from their heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hiwm.build import build
from hiwm.heads.heads import Heads
from hiwm.hierarchy import Hierarchy
from hiwm.levels.parts import Predictor
from hiwm.planning.config import PlannerConfig
from hiwm.planning.landmarks import LandmarkGraph
from hiwm.planning.proposals import FREE, Mixture
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
        rounds = solver.cost + (config.mixture(k, top).first == "bank")
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


def check_heads(
    config: PlannerConfig, hierarchy: Hierarchy, heads: Heads, graphs: Sequence[LandmarkGraph] = ()
) -> None:
    """Raise a ValueError that names the key if heads or graphs that the config needs are not there."""
    number = len(hierarchy)
    if config.landmarks != "none" and len(graphs) < number:
        raise ValueError(f"planner.landmarks is {config.landmarks!r} but the hierarchy has no graph on its top level")
    for k in range(number):
        if config.searches(k, number - 1):
            _check_action_bank(config, k, number - 1, heads)
        if weight := config.weight("disagreement", k):
            known = heads.of("calibrations", k)
            steps = 0 if known is None else known.steps
            check_disagreement(k, weight, hierarchy.levels[k].predictor, steps, config.horizon[k])
    learned = ([k for k in range(number) if heads.of(kind, k) is not None] for kind in ("action_priors", "values"))
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


def _check_action_bank(config: PlannerConfig, k: int, top: int, heads: Heads) -> None:
    horizon, bank = config.horizon[k], heads.of("action_banks", k)
    if not config.mixture(k, top).asks_bank:
        return
    if bank is None:
        raise ValueError(
            f"planner.proposal[{k}] is {config.proposal[k]!r}; expected gaussian, inverse, inverse+search or gaussian+inverse, "
            f"because the hierarchy has no action bank of level {k}. Choose one of them, or run `hiwm train` again"
        )
    if horizon > bank.longest:
        raise ValueError(
            f"planner.horizon[{k}] is {horizon}; expected at most {bank.longest}, the longest sequence in the action bank of level "
            f"{k}. Train with a larger action_bank.length, unless the episodes are too short for it"
        )


def check_disagreement(k: int, weight: float, predictor: Predictor, steps: int, horizon: int) -> None:
    """Refuse a weight for the disagreement of level k without a calibration that covers the horizon.

    Args:
        k: the level.
        weight: planner.disagreement[k], not 0.
        predictor: of the level.
        steps: steps ahead it is calibrated for; 0 where it is not calibrated.
        horizon: planner.horizon[k].
    """
    where = f"planner.disagreement[{k}] is {weight}"
    if predictor.num_members < 2:
        raise ValueError(
            f"{where}; expected 0, because the predictor of level {k}, {type(predictor).__name__}, is no ensemble. Train with "
            f"predictor@levels.level{k}.predictor=ensemble"
        )
    if not steps:
        raise ValueError(
            f"{where}; expected 0, because the ensemble of level {k} is not calibrated. Run `hiwm train` again with two or more "
            "held-out episodes (dataset.validation) that hold one of its steps"
        )
    if horizon > steps:
        raise ValueError(
            f"planner.horizon[{k}] is {horizon}; expected at most {steps}, the steps ahead that level {k} is calibrated for, because "
            f"planner.disagreement[{k}] is {weight}"
        )
