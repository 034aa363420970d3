from __future__ import annotations

import pytest
from planning_tools import FLAT, planner_config

from hiwm.planning.config import ProposalConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": "indirect"}, r"planner.graph is 'indirect'; expected none, follow, search"),
        ({"level1": {"goal_weight": -1.0}}, r"planner.level1.goal_weight is -1.0; expected at least 0"),
        (
            {"level1": {"proposal": {"center": "guess"}}},
            r"planner.level1.proposal.center is 'guess'; expected gaussian, inverse, retrieval, flow",
        ),
        (
            {"level1": {"proposal": {"candidates": ["inverse", "flow"]}}},
            r"planner.level1.proposal.candidates\[1\] is 'flow'; expected inverse, retrieval",
        ),
        ({"milliseconds": 0.0}, r"planner.milliseconds is 0.0; expected more than 0"),
        ({"level0": {"horizon": 0}}, r"planner.level0.horizon is 0; expected at least 1"),
        ({"level0": {"horizon": 2.5}}, r"planner.level0.horizon is 2.5; expected a whole number"),
        ({"level": {"horizon": 2}}, r"unknown key planner.level; expected one of graph, .*level0, level1"),
        (
            {"level0": {"repeat": 2}},
            r"unknown key planner.level0.repeat; expected one of action_repeat, check_subgoals, costs, .*, strategy",
        ),
        (
            {"level0": {"strategy": 3}},
            r"planner.level0.strategy is 3; expected search, follow_inverse, hand_down, or a mapping",
        ),
        (
            {"graph": "follow", "shrinking_horizon": True},
            r"planner.shrinking_horizon is true; expected false with planner.graph 'follow'",
        ),
    ],
)
def test_a_value_that_is_refused_is_named_by_its_key(changes, message):
    with pytest.raises(ValueError, match=message):
        FLAT.changed(changes)


def test_changes_are_merged_level_by_level():
    changed = FLAT.changed({"level0": {"proposal": {"center": "retrieval"}}, "level2": {"horizon": 7}})
    assert changed.level(0) == FLAT.level(0).changed({"proposal": {"center": "retrieval"}})
    assert changed.level(0).proposal.std == FLAT.level(0).proposal.std == 0.7
    assert (changed.level(1).horizon, changed.level(2).horizon) == (4, 7)


def test_a_metric_level_below_another_one_weighs_the_goal_unless_told():
    def weights(config, *metric):
        return [config.with_goal_weights(metric).level(k).goal_weight for k in range(len(metric))]

    searching = planner_config()
    assert weights(searching, False, True, True) == [0, 1, 0]
    assert weights(searching, False, True, True, True) == [0, 1, 1, 0]
    assert weights(searching, False, True, False) == weights(searching, False, False, True) == [0, 0, 0]
    assert weights(planner_config(level1={"goal_weight": 0.0}), False, True, True) == [0, 0, 0]
    assert weights(planner_config(level1={"strategy": "hand_down"}), False, True, True) == [0, 0, 0]


def test_a_level_replans_with_the_level_below_unless_it_has_its_own_interval():
    assert [planner_config().replan(k) for k in range(3)] == [1, 1, 1]
    config = planner_config(level0={"replan": 2}, level2={"replan": 6})
    assert [config.replan(k) for k in range(4)] == [2, 2, 6, 6]


def test_the_graph_and_the_level_decide_on_the_strategy():
    config = planner_config(
        graph="follow", level0={"strategy": "follow_inverse"}, level2={"strategy": {"_target_": "my.S"}}
    )
    assert [config.strategy(k, 2) for k in range(3)] == ["follow_inverse", "search", "hand_down"]
    assert config.changed({"graph": "search"}).strategy(2, 2) == {"_target_": "my.S"}
    # a single level always has to search for landmarks, or follows its own inverse model
    assert config.strategy(0, 0) == "follow_inverse"


def test_a_change_of_a_level_that_there_is_not_is_refused():
    assert FLAT.of_levels(2, {"level1": {"horizon": 2}}).level(1).horizon == 2
    with pytest.raises(
        ValueError, match=r"unknown key planner.level2; expected one of level0, level1, the levels that plan"
    ):
        FLAT.of_levels(2, {"level2": {"horizon": 2}})


def test_proposals_know_what_they_need():
    assert ProposalConfig(center="inverse").needs_inverse
    assert ProposalConfig(candidates=["inverse"]).needs_inverse
    assert not ProposalConfig(center="retrieval").needs_inverse
    assert ProposalConfig(center="retrieval").needs_bank
    assert ProposalConfig(candidates=["retrieval"]).needs_bank
    assert not ProposalConfig(center="flow", candidates=["inverse"]).needs_bank
