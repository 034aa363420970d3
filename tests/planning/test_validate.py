from __future__ import annotations

from types import SimpleNamespace

import pytest
from planning_tools import CEM, flat_planner, hierarchy_planner, per_level, search

from hiwm.planning.config import PlannerConfig
from hiwm.planning.validate import check_config, check_disagreement, check_fitted

HIERARCHY = PlannerConfig(
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
            {"level1": {"horizon": 5, "hold": 2}},
            r"planner.level1.horizon is 5; expected a multiple of planner.level1.hold, 2",
        ),
        (
            per_level(replan=[4, 8, 10]),
            r"planner.level2.replan is 10; expected a multiple of planner.level0.replan, 4",
        ),
        (
            {"level0": search("flow")},
            r"planner.level0.proposal.center is flow; expected gaussian, inverse or retrieval",
        ),
        ({"level1": {"value": 1.0}}, r"planner.level1.value is 1.0; expected 0, because level 1 does not search"),
        ({"level2": {"disagreement": 2.0}}, r"planner.level2.disagreement is 2.0; .* level 2 does not search"),
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
            {"level0": {"hold": 4}},
            r"planner.level0.hold is 4; expected a divisor of the horizon, 6 environment steps",
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


def test_heads_that_no_level_learns_are_refused():
    config = PlannerConfig(level1={**search("flow"), "value": 2.0})
    with pytest.raises(ValueError, match=r"planner.level1.proposal.center is flow but level 1 learns no action prior"):
        check_fitted(config, 2, priors=[0], values=[1])
    with pytest.raises(ValueError, match=r"planner.level1.value is 2.0 but level 1 learns no value"):
        check_fitted(config, 2, priors=[1], values=[0])
    check_fitted(config, 2, priors=[1], values=[1])


def test_a_weight_of_disagreement_needs_a_calibrated_ensemble(exact):
    config = PlannerConfig(level0={"horizon": 4, "disagreement": 1.0})
    ensemble = SimpleNamespace(num_members=3)
    with pytest.raises(ValueError, match=r"planner.level0.disagreement is 1.0; .* Linear, is not an ensemble"):
        check_disagreement(config, 0, exact.levels[0].predictor, 4)
    with pytest.raises(ValueError, match=r"planner.level0.disagreement is 1.0; .* is not calibrated"):
        check_disagreement(config, 0, ensemble, 0)
    with pytest.raises(ValueError, match=r"planner.level0.horizon is 4; expected at most 3"):
        check_disagreement(config, 0, ensemble, 3)
    check_disagreement(config, 0, ensemble, 4)
    with pytest.raises(ValueError, match="is not an ensemble"):
        flat_planner(exact, level0={"disagreement": 1.0})
