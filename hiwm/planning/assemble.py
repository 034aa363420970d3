"""Makes a planner from a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from hiwm.build import build_as
from hiwm.heads.heads import Heads
from hiwm.hierarchy import Hierarchy
from hiwm.planning.config import STRATEGIES, PlannerConfig
from hiwm.planning.contracts import CheckedCost
from hiwm.planning.costs import Cost, DisagreementCost, ValueCost
from hiwm.planning.counter import ForwardCounter
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.planning.graph.navigator import GraphNavigator
from hiwm.planning.horizon import FixedHorizon, HorizonSchedule
from hiwm.planning.model import LevelModel
from hiwm.planning.planner import HierarchicalPlanner
from hiwm.planning.reachability import ReachabilityCheck
from hiwm.planning.shrinking_horizon import ShrinkingHorizon
from hiwm.planning.solvers.solver import Solver
from hiwm.planning.strategies.strategy import Strategy
from hiwm.planning.support import SupportCost
from hiwm.planning.targets import DirectNavigator, Navigator
from hiwm.planning.validate import check_planner

#: shipped costs by name; `LevelPlanning` has the weight of each, `<name>_weight`
SHIPPED_COSTS: dict[str, Callable[..., Cost]] = {
    "value": ValueCost,
    "disagreement": DisagreementCost,
    "support": SupportCost,
}
COST_ARGUMENTS = ("hierarchy", "level", "heads")  # arguments that a custom cost may take


def make_planner(
    hierarchy: Hierarchy,
    config: PlannerConfig,
    bounds: tuple[Tensor, Tensor],
    heads: Heads | None = None,
    graphs: Sequence[LandmarkGraph] = (),
    *,
    discrete: bool = False,
    allow: Sequence[str] = (),
) -> HierarchicalPlanner:
    """The planner of a config.

    Args:
        hierarchy: levels; all of them plan.
        config: planner settings.
        bounds: lowest and highest primitive action, (A,) each.
        heads: heads that the settings need.
        graphs: landmark graphs, one per level; the planner uses that of the top level.
        discrete: whether primitive actions are one-hot vectors.
        allow: packages trusted for the classes that the config names, besides hiwm's own.
    """
    heads = Heads() if heads is None else heads
    check_planner(config, hierarchy, heads, graphs)
    metric = [level.metric for level in hierarchy.levels]
    config = config.with_goal_weights(metric)
    counter, top = ForwardCounter(), len(hierarchy) - 1
    bounds = bounds[0].flatten(), bounds[1].flatten()
    models = make_models(config, hierarchy, heads, bounds, discrete, counter)
    strategies = make_strategies(config, top, discrete, allow)
    reachability = make_checks(config, models)
    calls = split_budget(config, models, strategies, reachability)
    navigator: Navigator = DirectNavigator(top, models[top].looks_ahead)
    if config.graph != "none":
        navigator = GraphNavigator(
            graphs[top], top, config.hops, config.failure_penalty, config.patience, models[top].p
        )
    horizon: HorizonSchedule = FixedHorizon()
    if config.shrinking_horizon:
        searches = [strategy.searches for strategy in strategies]
        horizon = ShrinkingHorizon(hierarchy.periods, [model.horizon for model in models], searches, metric)
    costs = [make_costs(config, model, hierarchy, heads, allow) for model in models]
    return HierarchicalPlanner(
        hierarchy, config, models, strategies, costs, reachability, navigator, horizon, counter, calls
    )


def make_models(
    config: PlannerConfig,
    hierarchy: Hierarchy,
    heads: Heads,
    bounds: tuple[Tensor, Tensor],
    discrete: bool,
    counter: ForwardCounter,
) -> list[LevelModel]:
    """One model per level, bottom first."""
    return [
        LevelModel(hierarchy, k, heads, config.level(k).horizon, bounds, discrete, counter)
        for k in range(len(hierarchy))
    ]


def make_strategies(config: PlannerConfig, top: int, discrete: bool, allow: Sequence[str] = ()) -> list[Strategy]:
    """How each level plans, bottom first; `discrete`: the actions of level 0 are one-hot vectors.

    A custom strategy, like the shipped ones, receives the arguments that its constructor names: `solver`, `proposal`, `action_repeat`,
    `warm_start`, unless `planner.level<k>.strategy` gives arguments of these names.
    """
    if discrete and config.discrete_solver is None:
        raise ValueError("planner.discrete_solver is null; expected a solver, because the actions are discrete")
    solver: Solver[Any] = build_as(Solver, "planner.solver", config.solver, allow)
    strategies: list[Strategy] = []
    for k in range(top + 1):
        level, described = config.level(k), config.strategy(k, top)
        own = solver
        if discrete and k == 0:
            own = build_as(Solver, "planner.discrete_solver", config.discrete_solver or {}, allow)
        if isinstance(described, str):
            described = {"_target_": STRATEGIES[described]}
        known = {
            "solver": own,
            "proposal": level.proposal,
            "action_repeat": level.action_repeat,
            "warm_start": config.warm_start,
        }
        known = {name: value for name, value in known.items() if name not in described}
        strategies.append(build_as(Strategy, f"planner.level{k}.strategy", described, allow, **known))
    return strategies


def make_checks(config: PlannerConfig, models: Sequence[LevelModel]) -> dict[int, ReachabilityCheck]:
    """The checks of subgoals, by level."""
    numbers = {k: config.level(k).check_subgoals for k in range(len(models))}
    return {k: ReachabilityCheck(models[k], models[k - 1], number) for k, number in numbers.items() if number}


def split_budget(
    config: PlannerConfig,
    models: Sequence[LevelModel],
    strategies: Sequence[Strategy],
    reachability: Mapping[int, ReachabilityCheck],
) -> list[float]:
    """Predictor calls per episode that the search of one plan of each level may take, so that all levels and checks keep the budget.

    Raises:
        ValueError: a strategy cannot plan with its model and its share; the message names the key.
    """
    searching = max(1, sum(strategy.searches for strategy in strategies))
    calls = [config.budget / searching * config.replan(k) for k in range(len(strategies))]
    for k, check in reachability.items():
        calls[k] -= check.calls
    for strategy, model, share in zip(strategies, models, calls, strict=True):
        strategy.check(model, share)
    return calls


def make_costs(
    config: PlannerConfig, model: LevelModel, hierarchy: Hierarchy, heads: Heads, allow: Sequence[str] = ()
) -> dict[str, Cost]:
    """What a level minimises besides the distance to its target. A custom cost may take `hierarchy`, `level` and `heads`."""
    level = config.level(model.k)
    inputs_of = hierarchy.levels[model.k] if level.support_inputs else None
    more: dict[str, dict[str, Any]] = {"support": {"margin": level.support_margin, "inputs_of": inputs_of}}
    costs: dict[str, Cost] = {
        name: SHIPPED_COSTS[name](model, weight, **more.get(name, {}))
        for name, weight in level.cost_weights.items()
        if weight
    }
    for name, described in level.costs.items():
        key = f"planner.level{model.k}.costs.{name}"
        known = dict(zip(COST_ARGUMENTS, (hierarchy, model.k, heads), strict=True))
        costs[name] = CheckedCost(key, build_as(Cost, key, described, allow, **known))
    return costs
