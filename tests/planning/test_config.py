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
        ({"level0": {"repeat": 2}}, r"unknown key planner.level0.repeat"),
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


def test_a_level_replans_with_the_level_below_unless_it_has_its_own_interval():
    assert [planner_config().replan(k) for k in range(3)] == [5, 5, 5]
    config = planner_config(level0={"replan": 2}, level2={"replan": 6})
    assert [config.replan(k) for k in range(4)] == [2, 2, 6, 6]


def test_levels_search_unless_they_follow():
    config = planner_config(
        graph="follow", level0={"strategy": "follow_inverse"}, level2={"strategy": "follow_inverse"}
    )
    assert [config.searches(k, 2) for k in range(3)] == [False, True, False]
    # above level 0 a top level has no level above to ask
    assert config.changed({"graph": "search"}).searches(2, 2)
    assert not config.changed({"graph": "search"}).follows_inverse(2, 2)
    # a single level always has to search for landmarks, or follows its own inverse model
    assert not config.follows_graph(0, 0)
    assert config.follows_inverse(0, 0)


def test_proposals_know_what_they_need():
    assert ProposalConfig(center="inverse").needs_inverse
    assert ProposalConfig(candidates=["inverse"]).needs_inverse
    assert not ProposalConfig(center="retrieval").needs_inverse
    assert ProposalConfig(center="retrieval").needs_bank
    assert ProposalConfig(candidates=["retrieval"]).needs_bank
    assert not ProposalConfig(center="flow", candidates=["inverse"]).needs_bank


@pytest.mark.parametrize(
    ("own", "at_top"),
    [
        ({"center": "inverse", "std": 0.3}, {"center": "gaussian", "std": 1.0}),
        (
            {"center": "inverse", "std": 0.3, "candidates": ["retrieval"]},
            {"center": "gaussian", "std": 1.0, "candidates": ["retrieval"]},
        ),
        ({"candidates": ["inverse"], "std": 0.3}, {"std": 0.3}),
        ({"center": "retrieval", "candidates": ["inverse"], "std": 0.3}, {"center": "retrieval", "std": 0.3}),
        (
            {"candidates": ["inverse", "retrieval"], "std": 0.3},
            {"candidates": ["retrieval"], "std": 0.3},
        ),
    ],
)
def test_a_top_level_asks_no_inverse_model(own, at_top):
    """A Gaussian replaces the actions of the inverse model."""
    config = planner_config(level0={"proposal": own}, level1={"proposal": own})
    found, expected = config.proposal(1, 1), ProposalConfig(**at_top)
    assert (found.center, found.std, list(found.candidates)) == (
        expected.center,
        expected.std,
        list(expected.candidates),
    )
    assert config.proposal(1, 2) == config.level(1).proposal
    assert config.proposal(0, 0) == config.level(0).proposal  # a single level asks its own
