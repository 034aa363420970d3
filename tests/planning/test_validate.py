from __future__ import annotations

from types import SimpleNamespace

import pytest
from planning_tools import CEM, flat_planner, hierarchy_planner, per_level, planner_config, points, search, start

from hiwm.planning.costs import Evaluator
from hiwm.planning.validate import check_config, check_heads, check_levels

HIERARCHY = planner_config(
    graph="follow",
    hops=1,
    budget=200,
    solver=CEM,
    level0={"strategy": "follow_inverse", "horizon": 10, "replan": 1},
    level1={"strategy": "follow_inverse", "horizon": 5, "replan": 5},
    level2={"horizon": 4, "replan": 10},
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"level1": {"horizon": 5, "action_repeat": 2}},
            r"planner.level1.horizon is 5; expected a multiple of planner.level1.action_repeat, 2",
        ),
        (
            per_level(replan=[4, 8, 10]),
            r"planner.level2.replan is 10; expected a multiple of planner.level0.replan, 4",
        ),
        (
            {"level0": {"strategy": "hand_down"}},
            r"planner.level0.strategy is hand_down; expected another, because no level",
        ),
        (
            {"level1": {"strategy": "hand_down"}},
            r"planner.level1.strategy is hand_down; expected search or follow_inverse below the top level, level 2, because the target is",
        ),
        (
            {"level2": {"strategy": "hand_down", "support_weight": 1.0}},
            r"planner.level2.support_weight is 1.0; expected 0, because level 2 does not search",
        ),
        (
            {"level1": {"strategy": "follow_inverse", "support_weight": 1.0}},
            r"planner.level1.support_weight is 1.0; expected 0, because level 1 does not search",
        ),
        (
            {"level0": {**search(), "check_subgoals": 4}},
            r"planner.level0.check_subgoals is 4; expected 0, because no level is below",
        ),
        (
            {"level1": {"check_subgoals": 4}},
            r"planner.level1.check_subgoals is 4; expected 0, because it chooses among plans of a search",
        ),
        (
            {"level0": search("flow")},
            r"planner.level0.proposal.center is flow; expected gaussian, inverse or retrieval",
        ),
        (
            {"level1": {"strategy": "search", "proposal": {"center": "flow", "candidates": ["inverse"]}}},
            r"planner.level1.proposal.candidates is \['inverse'\]; expected \[\] with center flow",
        ),
        (
            {"level1": {"value_weight": 1.0}},
            r"planner.level1.value_weight is 1.0; expected 0, because level 1 does not search",
        ),
        (
            {"level2": {"disagreement_weight": 2.0}},
            r"planner.level2.disagreement_weight is 2.0; .* level 2 does not search",
        ),
        ({"level1": {"costs": {"own": CEM}}}, r"planner.level1.costs is .* level 1 does not search"),
        (
            {"level2": search("flow")},
            r"planner.level2.proposal.center is flow, but level 2 does not search; expected strategy search",
        ),
    ],
)
def test_what_no_hierarchy_could_do_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_config(HIERARCHY.changed(changes), 3)
    check_config(HIERARCHY, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"level0": {"action_repeat": 4}},
            r"planner.level0.action_repeat is 4; expected a divisor of the horizon, 6 environment steps",
        ),
        (per_level(replan=[7, 7, 7]), r"planner.level0.replan is 7; expected at most its horizon, 6"),
        (
            {"budget": 10},
            r"planner.budget gives level 0 \d candidates in a round; expected at least 4. Raise planner.budget or "
            r"planner.level0.replan",
        ),
        ({"solver": {"_target_": "os.getcwd"}}, r"'os.getcwd' is not trusted"),
        ({"solver": {"_target_": "hiwm.planning.solvers.cem.CEM", "rounds": 3}}, r"rounds"),
    ],
)
def test_what_does_not_fit_the_levels_is_refused(agent, changes, message):
    with pytest.raises(ValueError, match=message):
        hierarchy_planner(agent, changes)


def test_a_goal_weight_is_refused_where_nothing_is_searched():
    with pytest.raises(
        ValueError, match=r"planner.level1.goal_weight is 2.0; expected 0, because level 1 does not search"
    ):
        check_config(HIERARCHY.changed({"level1": {"goal_weight": 2.0}}), 3)
    check_config(HIERARCHY.changed({"level1": {"goal_weight": 2.0, "strategy": "search"}}), 3)


def test_inputs_that_latents_do_not_hold_cannot_be_compared(agent):
    config = HIERARCHY.changed({"level2": {"support_weight": 1.0, "support_inputs": True}})
    with pytest.raises(
        ValueError, match=r"planner.level2.support_inputs is true, but .* hold no inputs; expected false"
    ):
        check_levels(config, agent.hierarchy, [0, 0, 0])


def test_heads_that_no_level_learns_are_refused():
    config = planner_config(level1={**search("flow"), "value_weight": 2.0})
    with pytest.raises(ValueError, match=r"planner.level1.proposal.center is flow but level 1 learns no action prior"):
        check_heads(config, 2, priors=[0], values=[1], longest=[0, 0])
    with pytest.raises(ValueError, match=r"planner.level1.value_weight is 2.0 but level 1 learns no value"):
        check_heads(config, 2, priors=[1], values=[0], longest=[0, 0])
    check_heads(config, 2, priors=[1], values=[1], longest=[0, 0])
    supported = planner_config(level1={**search(), "support_weight": 3.0})
    with pytest.raises(
        ValueError, match=r"planner.level1.support_weight is 3.0, but no real latents of level 1 are saved"
    ):
        check_heads(supported, 2, priors=[], values=[], longest=[3, 0])
    check_heads(supported, 2, priors=[], values=[], longest=[0, 3])
    retrieval = planner_config(level0={"horizon": 4, **search("retrieval")})
    with pytest.raises(
        ValueError, match=r"planner.level0.proposal asks for retrieval, but no real actions of level 0 are"
    ):
        check_heads(retrieval, 1, priors=[], values=[], longest=[0])
    with pytest.raises(ValueError, match=r"planner.level0.horizon is 4; expected at most 3, the longest sequence"):
        check_heads(retrieval, 1, priors=[], values=[], longest=[3])
    check_heads(retrieval, 1, priors=[], values=[], longest=[4])


@pytest.mark.parametrize("center", ["flow", "retrieval", "inverse"])
def test_a_strategy_of_ones_own_needs_no_heads_of_a_proposal_that_it_never_reads(center):
    own = {"strategy": {"_target_": "my.Strategy"}, "proposal": {"center": center}}
    config = planner_config(level0=own, level1=own)
    check_config(config, 2)
    check_heads(config, 2, priors=[], values=[], longest=[0, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "follow_inverse"}, r"planner.level1.strategy is follow_inverse; expected a search without the"),
        (search("inverse"), r"planner.level1.proposal.center is inverse; expected a search without the inverse model"),
        (
            search("gaussian", "inverse"),
            r"planner.level1.proposal.candidates is \['inverse'\]; expected a search without",
        ),
        ({"goal_weight": 2.0}, r"planner.level1.goal_weight is 2.0; expected 0 at the top level"),
    ],
)
def test_a_top_level_has_no_level_above_to_ask(changes, message):
    config = planner_config(level1=changes)
    for planner in (config, config.changed({"graph": "search"})):
        with pytest.raises(ValueError, match=message):
            check_config(planner, 2)
    check_config(config, 3)
    if "goal_weight" not in changes:
        check_config(config.changed({"graph": "follow"}), 2)  # it hands landmarks down and reads neither


def test_a_weight_of_disagreement_needs_a_calibrated_ensemble(exact):
    config = planner_config(level0={"horizon": 4, "disagreement_weight": 1.0})
    ensemble = SimpleNamespace(levels=[SimpleNamespace(predictor=SimpleNamespace(num_members=3))], periods=[1])
    ensemble = type("Levels", (), {**vars(ensemble), "__len__": lambda self: 1})()
    with pytest.raises(ValueError, match=r"planner.level0.disagreement_weight is 1.0; .* Linear, is not an ensemble"):
        check_levels(config, exact, [4])
    with pytest.raises(ValueError, match=r"planner.level0.disagreement_weight is 1.0; .* is not calibrated"):
        check_levels(config, ensemble, [0])
    with pytest.raises(ValueError, match=r"planner.level0.horizon is 4; expected at most 3"):
        check_levels(config, ensemble, [3])
    check_levels(config, ensemble, [4])
    with pytest.raises(ValueError, match=r"is not an ensemble"):
        flat_planner(exact, level0={"disagreement_weight": 1.0})


def test_classes_of_another_kind_are_refused_by_their_key(agent):
    wrong = {"_target_": "hiwm.planning.solvers.cem.CEM"}
    with pytest.raises(ValueError, match=r"planner.level0.strategy makes a CEM; expected a subclass of .*Strategy"):
        hierarchy_planner(agent, {"level0": {"strategy": wrong}})
    with pytest.raises(ValueError, match=r"planner.level0.costs.mine makes a CEM; expected a subclass of .*Cost"):
        hierarchy_planner(agent, {"level0": {"costs": {"mine": wrong}}})
    with pytest.raises(ValueError, match=r"planner.level0.costs.value has the name of a shipped cost"):
        hierarchy_planner(agent, {"level0": {"costs": {"value": wrong}}})


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ({"iterations": 0}, r"^planner.solver.iterations is 0; expected at least 1$"),
        ({"elite_share": 2.0}, r"^planner.solver.elite_share is 2.0; expected a number in \(0, 1\]$"),
        ({"iteration": 1}, r"^planner.solver: .*unexpected keyword argument 'iteration'"),
    ],
)
def test_arguments_of_a_solver_are_refused_by_their_key(solver, message, exact):
    with pytest.raises(ValueError, match=message):
        flat_planner(exact, solver=CEM | solver)
    wrapped = {"_target_": "hiwm.planning.solvers.augmented_lagrangian.AugmentedLagrangian", "solver": CEM | solver}
    nested = message.replace("planner.solver", "planner.solver.solver") if "unexpected" not in message else message
    with pytest.raises(ValueError, match=nested):
        flat_planner(exact, solver=wrapped)


def test_a_constraint_holds_beyond_the_start_of_the_next_plan(agent, monkeypatch):
    """Four environment steps between plans are two steps of a level of period 3, the second of them begun."""
    committed, before = [], Evaluator.__init__

    def spy(self, *arguments, **named):
        committed.append(named["committed"])
        before(self, *arguments, **named)

    monkeypatch.setattr(Evaluator, "__init__", spy)
    planner = hierarchy_planner(agent, {"level0": {"replan": 4}, "level1": {"replan": 4}, "level2": {"replan": 8}})
    start(planner, points(2)).plan({"state": points(2, seed=1)})
    assert committed == [2, 2, 4]  # top first, for periods 6, 3, 1
