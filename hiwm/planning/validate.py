"""Rules between the planner's config, the levels and what was fitted to them; types and ranges are checked by `Settings`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hiwm.heads.heads import Heads, head_of
from hiwm.hierarchy import Hierarchy
from hiwm.levels.parts import Encoder, Predictor
from hiwm.planning.config import PlannerConfig
from hiwm.planning.graph.landmarks import LandmarkGraph


def check_planner(config: PlannerConfig, hierarchy: Hierarchy, heads: Heads, graphs: Sequence[LandmarkGraph]) -> None:
    """Raise a ValueError that names the key if trained levels with these heads and graphs cannot do what the config says.

    Every agent that is made is checked, because a saved one may get another planner or other heads. `hiwm.validate` checks the
    same rules once more before training, with the heads that there will be, so that a mistake costs no training.
    """
    levels = range(len(hierarchy))
    banks = [head_of(heads.action_banks, k) for k in levels]
    calibrations = [head_of(heads.calibrations, k) for k in levels]
    priors, values = (
        [k for k in levels if head_of(entries, k) is not None] for entries in (heads.action_priors, heads.values)
    )
    check_config(config, len(hierarchy))
    check_heads(config, len(hierarchy), priors, values, [bank.longest if bank else 0 for bank in banks])
    check_levels(config, hierarchy, [calibration.steps if calibration else 0 for calibration in calibrations])
    if config.graph != "none" and len(graphs) < len(hierarchy):
        raise ValueError(
            f"planner.graph is {config.graph!r} but the top level has no landmark graph; expected none, or run `hiwm train` again"
        )


def check_config(config: PlannerConfig, num_levels: int) -> None:
    """Raise a ValueError that names the key if no hierarchy of `num_levels` levels could do what the config says."""
    top = num_levels - 1
    for k in range(num_levels):
        level, where, strategy = config.level(k), f"planner.level{k}", config.strategy(k, top)
        if k and level.horizon % level.action_repeat:
            raise ValueError(
                f"{where}.horizon is {level.horizon}; expected a multiple of {where}.action_repeat, {level.action_repeat}"
            )
        if config.replan(k) % config.replan(0):
            raise ValueError(
                f"{where}.replan is {config.replan(k)}; expected a multiple of planner.level0.replan, {config.replan(0)}"
            )
        shipped = level.cost_weights
        if taken := [name for name in level.costs if name in shipped]:
            raise ValueError(
                f"{where}.costs.{taken[0]} has the name of a shipped cost; expected another name than {', '.join(shipped)}"
            )
        if level.goal_weight and k == top:
            raise ValueError(
                f"{where}.goal_weight is {level.goal_weight}; expected 0 at the top level, whose target is the goal or a "
                "landmark on the way to it"
            )
        if strategy == "hand_down" and not isinstance(level.strategy, str):
            raise ValueError(
                f"{where}.strategy is {dict(level.strategy)}; expected planner.graph none or search, because with follow the top "
                "level hands landmarks down as they are"
            )
        if strategy == "hand_down" and k == 0:
            raise ValueError(f"{where}.strategy is hand_down; expected another, because no level is below")
        if strategy == "hand_down" and k < top:
            raise ValueError(
                f"{where}.strategy is hand_down; expected search or follow_inverse below the top level, level {top}, because the target "
                f"is a latent of level {k + 1}"
            )
        if strategy in ("hand_down", "follow_inverse"):
            _check_unread(config, k)
        if level.check_subgoals == 1:
            raise ValueError(f"{where}.check_subgoals is 1; expected 0, or at least 2 plans to choose among")
        if level.check_subgoals and (k == 0 or strategy != "search"):
            why = (
                "no level is below"
                if k == 0
                else f"it chooses among plans of a search, and {where}.strategy is another"
            )
            raise ValueError(f"{where}.check_subgoals is {level.check_subgoals}; expected 0, because {why}")
        if strategy == "search" and level.proposal.center == "flow" and k == 0:
            raise ValueError(f"{where}.proposal.center is flow; expected gaussian, inverse or retrieval at level 0")
        if strategy == "search" and level.proposal.center == "flow" and level.proposal.candidates:
            raise ValueError(
                f"{where}.proposal.candidates is {list(level.proposal.candidates)}; expected [] with center flow, whose candidates are noise "
                "and not actions"
            )
        if 0 < k == top and (asks := _asks_inverse(config, k, top)):
            raise ValueError(
                f"{asks}; expected a search without the inverse model, because there is no level above whose inverse model could "
                f"propose actions. Set {where}.strategy=search '{where}.proposal={{center: gaussian, std: 1, candidates: []}}'"
            )


def check_heads(
    config: PlannerConfig, num_levels: int, priors: Collection[int], values: Collection[int], longest: Sequence[int]
) -> None:
    """Raise a ValueError that names the key if the config asks for a head that no level has, or will have.

    Args:
        config: how to plan.
        num_levels: levels that plan.
        priors: levels with an action prior.
        values: levels with a value.
        longest: actions of the longest sequence in the action bank of each level; 0 where there is no bank.
    """
    for k in range(num_levels):
        level, where = config.level(k), f"planner.level{k}"
        if level.value_weight and k not in values:
            raise ValueError(
                f"{where}.value_weight is {level.value_weight} but level {k} learns no value; expected 0, or `hiwm train` with "
                f"value.levels=[{k}]"
            )
        if level.support_weight and not longest[k]:
            raise ValueError(
                f"{where}.support_weight is {level.support_weight}, but no real latents of level {k} are saved; expected 0, or run "
                "`hiwm train` again"
            )
        if config.strategy(k, num_levels - 1) != "search":
            continue
        if level.proposal.center == "flow" and k not in priors:
            raise ValueError(
                f"{where}.proposal.center is flow but level {k} learns no action prior; expected another center, or `hiwm train` "
                f"with action_prior.levels=[{k}]"
            )
        if level.proposal.needs_bank and not longest[k]:
            raise ValueError(
                f"{where}.proposal asks for retrieval, but no real actions of level {k} are saved; expected another proposal, or "
                "run `hiwm train` again"
            )
        if level.proposal.needs_bank and level.horizon > longest[k]:
            raise ValueError(
                f"{where}.horizon is {level.horizon}; expected at most {longest[k]}, the longest sequence of real actions of level "
                f"{k}, because {where}.proposal asks for retrieval. Train with a larger action_bank.length, unless the episodes are "
                "too short for it"
            )


def check_levels(config: PlannerConfig, hierarchy: Hierarchy, calibrated: Sequence[int]) -> None:
    """Raise a ValueError that names the key if levels like these, trained or not, could not do what the config says.

    Args:
        config: how to plan.
        hierarchy: the levels that plan.
        calibrated: steps ahead for which the ensemble of each level is calibrated; 0 for none.
    """
    _check_level_0(config, hierarchy)
    _check_inverse_models(config, hierarchy)
    for k, level in enumerate(hierarchy.levels):
        if config.level(k).check_subgoals and level.inverse is None:
            raise ValueError(
                f"planner.level{k}.check_subgoals is {config.level(k).check_subgoals}; expected 0, because level {k} has no inverse model "
                f"for the level below to follow (levels.level{k}.inverse)"
            )
        if config.level(k).disagreement_weight:
            _check_disagreement(config, k, level.predictor, calibrated[k])
        if config.level(k).support_inputs and type(level.encoder).read_inputs is Encoder.read_inputs:
            raise ValueError(
                f"planner.level{k}.support_inputs is true, but the latents of level {k} hold no inputs; expected false, or a level with "
                f"encoder@levels.level{k}.encoder=beside_inputs"
            )


def _check_level_0(config: PlannerConfig, hierarchy: Hierarchy) -> None:
    """Level 0 chooses primitive actions, `stride` of them in one of its steps."""
    level, steps = config.level(0), config.level(0).horizon * hierarchy.periods[0]
    if config.replan(0) > steps:
        raise ValueError(
            f"planner.level0.replan is {config.replan(0)}; expected at most its horizon, {steps} environment steps"
        )
    if steps % level.action_repeat:
        raise ValueError(
            f"planner.level0.action_repeat is {level.action_repeat}; expected a divisor of the horizon, {steps} environment steps"
        )


def _check_inverse_models(config: PlannerConfig, hierarchy: Hierarchy) -> None:
    top = len(hierarchy) - 1
    for k in range(top + 1):
        if not (asks := _asks_inverse(config, k, top)):
            continue
        if top == 0 and hierarchy.strides[0] > 1:
            raise ValueError(
                f"{asks}; expected a search without the inverse model, because a single level of stride {hierarchy.strides[0]} "
                "has no level above whose inverse model could propose its chunks of actions"
            )
        above = min(k + 1, top)
        if hierarchy.levels[above].inverse is None:
            raise ValueError(
                f"{asks}; expected a search without the inverse model, because level {above} has none (levels.level{above}.inverse)"
            )


def _asks_inverse(config: PlannerConfig, k: int, top: int) -> str:
    """`<key> is <value>` of the setting by which level k asks an inverse model; empty if it asks none."""
    where, strategy, proposal = f"planner.level{k}", config.strategy(k, top), config.level(k).proposal
    if strategy == "follow_inverse":
        return f"{where}.strategy is follow_inverse"
    if strategy != "search" or not proposal.needs_inverse:
        return ""
    if proposal.center == "inverse":
        return f"{where}.proposal.center is inverse"
    return f"{where}.proposal.candidates is {list(proposal.candidates)}"


def _check_unread(config: PlannerConfig, k: int) -> None:
    """Refuse what only a search reads at a level that follows its inverse model or hands its target down."""
    level, where = config.level(k), f"planner.level{k}"
    for key in ("goal_weight", *(f"{name}_weight" for name in level.cost_weights), "costs"):
        if value := getattr(level, key):
            raise ValueError(
                f"{where}.{key} is {value}; expected {'{}' if key == 'costs' else 0}, because level {k} does not search: it "
                f"follows the inverse model or hands its target down ({where}.strategy, or planner.graph follow)"
            )
    if level.proposal.center == "flow":
        raise ValueError(
            f"{where}.proposal.center is flow, but level {k} does not search; expected strategy search, and planner.graph none or "
            "search"
        )


def _check_disagreement(config: PlannerConfig, k: int, predictor: Predictor, steps: int) -> None:
    """Refuse a weight of level k's disagreement if it is not calibrated for its horizon; `steps` ahead are, 0 for none."""
    level, where = config.level(k), f"planner.level{k}.disagreement_weight is {config.level(k).disagreement_weight}"
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
            f"planner.level{k}.horizon is {level.horizon}; expected at most {steps} with planner.level{k}.disagreement_weight, the steps "
            "ahead that the ensemble is calibrated for"
        )
