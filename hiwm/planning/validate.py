"""Rules between the planner's config, the levels and what was fitted to them; types and ranges are checked by `Settings`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hiwm.heads.heads import Heads, head_of
from hiwm.hierarchy import Hierarchy
from hiwm.levels.parts import Predictor
from hiwm.planning.config import PlannerConfig
from hiwm.planning.graph.landmarks import LandmarkGraph


def check_planner(config: PlannerConfig, hierarchy: Hierarchy, heads: Heads, graphs: Sequence[LandmarkGraph]) -> None:
    """Raise a ValueError that names the key if trained levels with these heads and graphs cannot do what the config says."""
    number = len(hierarchy)
    check_levels(config, hierarchy)
    if config.graph != "none" and len(graphs) < number:
        raise ValueError(
            f"planner.graph is {config.graph!r} but the top level has no landmark graph; expected none, or run `hiwm train` again"
        )
    for k in range(number):
        if config.searches(k, number - 1):
            _check_bank(config, k, number - 1, heads)
        if config.level(k).disagreement:
            calibration = head_of(heads.calibrations, k)
            check_disagreement(config, k, hierarchy.levels[k].predictor, calibration.steps if calibration else 0)
    fitted = (
        [k for k in range(number) if head_of(entries, k) is not None] for entries in (heads.action_priors, heads.values)
    )
    check_fitted(config, number, *fitted)


def check_levels(config: PlannerConfig, hierarchy: Hierarchy) -> None:
    """Raise a ValueError that names the key if levels like these, trained or not, could not do what the config says."""
    check_config(config, len(hierarchy))
    _check_level_0(config, hierarchy)
    _check_inverse_models(config, hierarchy)


def check_config(config: PlannerConfig, num_levels: int) -> None:
    """Raise a ValueError that names the key if no hierarchy of `num_levels` levels could do what the config says."""
    top = num_levels - 1
    for k in range(num_levels):
        level, where = config.level(k), f"planner.level{k}"
        if k and level.horizon % level.hold:
            raise ValueError(f"{where}.horizon is {level.horizon}; expected a multiple of {where}.hold, {level.hold}")
        if config.replan(k) % config.replan(0):
            raise ValueError(
                f"{where}.replan is {config.replan(k)}; expected a multiple of planner.level0.replan, {config.replan(0)}"
            )
        if level.proposal.center == "flow" and k == 0:
            raise ValueError(f"{where}.proposal.center is flow; expected gaussian, inverse or retrieval at level 0")
        if config.searches(k, top):
            continue
        if not isinstance(level.strategy, str):
            raise ValueError(
                f"{where}.strategy is {dict(level.strategy)}; expected planner.graph none or search, because with follow the top "
                "level hands landmarks down as they are"
            )
        # the level follows its inverse model or hands landmarks down
        unread = [key for key in ("value", "disagreement", "costs") if getattr(level, key)]
        if unread:
            raise ValueError(
                f"{where}.{unread[0]} is {getattr(level, unread[0])}; expected {'{}' if unread[0] == 'costs' else 0}, because level {k} does not search: it follows "
                f"the inverse model ({where}.strategy) or hands landmarks down (planner.graph follow)"
            )
        if level.proposal.center == "flow":
            raise ValueError(
                f"{where}.proposal.center is flow, but level {k} does not search; expected strategy search, and planner.graph "
                "none or search"
            )


def check_fitted(config: PlannerConfig, num_levels: int, priors: Collection[int], values: Collection[int]) -> None:
    """Raise a ValueError if the config asks for an action prior or a value that no level learns."""
    for k in range(num_levels):
        level, where = config.level(k), f"planner.level{k}"
        if level.proposal.center == "flow" and k not in priors:
            raise ValueError(
                f"{where}.proposal.center is flow but level {k} learns no action prior; expected another center, or `hiwm train` "
                f"with action_prior.levels=[{k}]"
            )
        if level.value and k not in values:
            raise ValueError(
                f"{where}.value is {level.value} but level {k} learns no value; expected 0, or `hiwm train` with "
                f"value.levels=[{k}]"
            )


def check_disagreement(config: PlannerConfig, k: int, predictor: Predictor, steps: int) -> None:
    """Refuse a weight of level k's disagreement if it is not calibrated for its horizon; `steps` ahead are, 0 for none."""
    level, where = config.level(k), f"planner.level{k}.disagreement is {config.level(k).disagreement}"
    if predictor.num_members < 2:
        raise ValueError(
            f"{where}; expected 0, because the predictor of level {k}, {type(predictor).__name__}, is not an ensemble. Train with "
            f"predictor@levels.level{k}.predictor=ensemble"
        )
    if not steps:
        raise ValueError(
            f"{where}; expected 0, because the ensemble of level {k} is not calibrated. Run `hiwm train` again with two or more "
            "held-out episodes (dataset.validation) that hold one of its steps"
        )
    if level.horizon > steps:
        raise ValueError(
            f"planner.level{k}.horizon is {level.horizon}; expected at most {steps} with planner.level{k}.disagreement, the steps "
            "ahead that the ensemble is calibrated for"
        )


def _check_level_0(config: PlannerConfig, hierarchy: Hierarchy) -> None:
    """Level 0 chooses primitive actions, `stride` of them in one of its steps."""
    level, steps = config.level(0), config.level(0).horizon * hierarchy.periods[0]
    if config.replan(0) > steps:
        raise ValueError(
            f"planner.level0.replan is {config.replan(0)}; expected at most its horizon, {steps} environment steps"
        )
    if steps % level.hold:
        raise ValueError(
            f"planner.level0.hold is {level.hold}; expected a divisor of the horizon, {steps} environment steps"
        )


def _check_inverse_models(config: PlannerConfig, hierarchy: Hierarchy) -> None:
    top = len(hierarchy) - 1
    for k in range(top + 1):
        if not config.needs_inverse(k, top):
            continue
        where = f"planner.level{k} asks the inverse model (strategy follow_inverse, or proposal inverse)"
        if top == 0 and hierarchy.strides[0] > 1:
            raise ValueError(
                f"{where}; expected a search without it, because a single level of stride {hierarchy.strides[0]} has no level "
                "above to propose its chunks of actions"
            )
        above = min(k + 1, top)
        if hierarchy.levels[above].inverse is None:
            raise ValueError(f"{where}; expected a search without it, because level {above} has no inverse model")


def _check_bank(config: PlannerConfig, k: int, top: int, heads: Heads) -> None:
    proposal, horizon, bank = config.proposal(k, top), config.level(k).horizon, head_of(heads.action_banks, k)
    if not proposal.needs_bank:
        return
    if bank is None:
        raise ValueError(
            f"planner.level{k}.proposal asks for retrieval, but no real actions of level {k} are saved; expected another "
            "proposal, or run `hiwm train` again"
        )
    if horizon > bank.longest:
        raise ValueError(
            f"planner.level{k}.horizon is {horizon}; expected at most {bank.longest}, the longest sequence in the bank of level "
            f"{k}. Train with a larger action_bank.length, unless the episodes are too short for it"
        )
