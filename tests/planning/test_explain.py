"""Why a plan is what it is, in tensors and in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch_geometric.data import Data

from hiwm.planning.explain.alternatives import CandidateLog
from hiwm.planning.explain.graph_path import GraphPath
from hiwm.planning.explain.outcome import REACHED, UNREACHED, SubgoalOutcome
from hiwm.planning.goals import BoxRegion, KeepOut, ObservationGoal
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.planning.graph.navigator import GraphNavigator
from hiwm.planning.plan import LevelPlan, Plan
from hiwm.planning.rollout import Rollout
from hiwm.planning.solvers.solver import Scores

NUMBERS = torch.arange(2.0)
HALVES = torch.tensor([0.0, 0.71])
PART = LevelPlan(
    level=1, target=torch.zeros(2, 3), target_level=2, subgoal=torch.zeros(2, 4), deadline=10, planned_at=5,
    current_cost=NUMBERS + 4, actions=torch.zeros(2, 1, 2), predicted=torch.zeros(2, 1, 4), nearest=NUMBERS + 1, cost=NUMBERS + 1,
)  # fmt: skip


def graph_path():
    """Three landmarks in a row and one that leads nowhere; the goal is at the third."""
    following = torch.tensor([[1], [2], [2], [3]])
    rows = [torch.tensor(x) for x in ([0, 2, 3], [1, 2, 3], [2, 2, 2])]
    zeros = torch.zeros(3, dtype=torch.long)
    return GraphPath(*rows, torch.tensor([2.5, 0.0, torch.inf]), zeros, zeros.bool(), following)


def plans_to(subgoals):
    """Plans of one step to places on a line, (B, S)."""
    return Rollout(torch.zeros(len(subgoals), 1), subgoals[:, :, None, None], subgoals[:, :, None, None])


def logged(penalty=None, violation=None):
    """One search for one episode in two rounds: subgoals on a line."""
    where, cost = torch.tensor([[4.0, 4.5, 1.0, 8.0, 9.0]]), torch.tensor([[1.0, 2.0, 6.0, 3.0, 4.0]])
    found = CandidateLog()
    for part in (slice(0, 2), slice(2, 5)):
        limits = None if violation is None else violation[:, part]
        failed = None if penalty is None else penalty[:, part]
        found.add(plans_to(where[:, part]), Scores(cost[:, part], limits), failed)
    return found


def test_a_path_counts_its_edges_and_says_where_it_leads():
    assert [graph_path().num_edges(i) for i in range(2)] == [2, 0]
    assert graph_path().text(0) == "landmark 1, on a path of 2 edges to the goal at cost 2.5"
    assert graph_path().text(1) == "the goal itself, at the end of its path over the landmarks"
    assert graph_path().text(2) == "landmark 3, although the graph has no path to the goal"
    assert graph_path().select(torch.tensor([1])).text(0) == graph_path().text(1)


def test_a_target_of_the_navigator_has_its_path():
    where = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    edges = torch.tensor([[0, 1, 2], [1, 2, 3]])
    graph = LandmarkGraph(Data(x=where, edge_index=edges, edge_attr=torch.tensor([1.0, 2.0, 3.0])), edge_steps=10)
    navigator = GraphNavigator(graph, 0, 1, 0.0, 3.0)
    navigator.start(ObservationGoal([where[[3, 3]]]))
    path = navigator.target(torch.tensor([[0.1, 0.0], [2.1, 0.0]]), 0).path
    assert path.text(0) == "landmark 1, on a path of 3 edges to the goal at cost 6.0"
    assert path.text(1) == "the goal itself, at the end of its path over the landmarks"
    assert path.cost.tolist() == [6, 3]


def test_alternatives_are_the_best_that_differ_from_the_chosen_subgoal_and_from_each_other():
    found = logged().alternatives(latent=torch.tensor([[0.0]]), chosen=torch.tensor([[4.0]]))
    assert found.subgoal[0, :2, 0].tolist() == [8, 1]  # 4.5 is within half the distance to 4, and 9 of 8
    assert found.cost.tolist() == [[3, 6, torch.inf]]
    assert found.distance[0, :2].tolist() == [4, 3]
    assert found.text(0, chosen_cost=1.0) == ["cost 3 (4 away)", "cost 6 (3 away)"]


def test_the_best_alternative_comes_first_with_the_reason_against_it():
    penalty, violation = torch.zeros(1, 5), torch.full((1, 5, 2), -1.0)
    penalty[0, 2], violation[0, 3, 1] = 5.5, 0.25
    found = logged(penalty, violation).alternatives(torch.tensor([[0.0]]), torch.tensor([[4.0]]))
    assert found.text(0, chosen_cost=1.0) == [
        "cost 6, 5.5 of it because it failed before (3 away)",
        "cost 3, violates constraints by 0.25 (4 away)",
    ]
    kept = found.select(torch.tensor([0, 0]))
    assert kept.text(1, 1.0) == found.text(0, 1.0)


def test_candidates_whose_cost_is_nan_are_left_out():
    found = CandidateLog()
    found.add(plans_to(torch.tensor([[4.0, 8.0]])), Scores(torch.tensor([[1.0, torch.nan]])), None)
    alternatives = found.alternatives(torch.tensor([[0.0]]), torch.tensor([[4.0]]))
    assert alternatives.text(0, 1.0) == []
    assert "rejected nothing distinct" in replace(PART, alternatives=alternatives).explain()


def test_the_total_cost_is_reported_apart_from_the_cost_of_the_target():
    first = replace(PART, cost=PART.cost + 7).explain(1).splitlines()[0]
    assert first.endswith("cost 5 now, 9 at its cheapest step (at least 2 without other costs)")


def test_a_shrinking_horizon_is_reported_in_steps():
    plan = replace(PART, goal_within=torch.tensor([0, 2]))
    assert "  must meet the goal within 2 of its steps" in plan.explain(1).splitlines()
    assert "must meet" not in plan.explain(0)
    # a level that plans for the goal itself says so, for each episode
    assert "plans towards the goal itself, past level 2;" in plan.explain(1)
    assert "plans towards the subgoal of level 2;" in plan.explain(0)


def test_a_level_reports_its_target_its_subgoal_and_the_outcome_of_the_last_one():
    outcome = SubgoalOutcome(torch.tensor([REACHED, UNREACHED]), torch.tensor([0, 1]), HALVES)
    assert replace(PART, outcome=outcome).explain(1).splitlines() == [
        "level 1, planned at step 5, plans towards the subgoal of level 2; cost 5 now, 2 at its cheapest step",
        "  hands down a subgoal to be reached by step 15",
        "  subgoal of step 1 not reached in time: 0.71 of its distance was left",
    ]


@pytest.mark.parametrize(("changes", "expected"), [
    ({"target_level": 1}, "plans towards the goal; cost 4 now"),
    ({"target_level": 1, "target": None}, "plans towards the goal; cost 4 now"),
    ({"target_level": 1, "path": graph_path()}, "plans towards landmark 1, on a path of 2 edges"),
    ({"cost": None, "actions": None, "predicted": None}, "cost 4 now\n  hands it down, to be reached by step 15"),
    ({"penalty": NUMBERS + 0.5}, "by step 15, 0.5 of its cost because it failed before"),
    ({"penalty": NUMBERS}, "by step 15"),
    ({"violation": torch.tensor([[0.5, -0.1], [0, 0]])}, "violates its constraints by 0.5, -0.1"),
    ({"violation": torch.tensor([[-0.5], [0]])}, "keeps its constraints"),
    ({"violation": torch.ones(2, 1), "multipliers": torch.full((2, 1), 7.0)}, "by 1, with multipliers 7"),
])  # fmt: skip
def test_reasons_in_words(changes, expected):
    text = replace(PART, **changes).explain()
    assert expected in text
    in_the_middle = ("of 2 edges", "cost 4", "constraints", "multipliers")
    assert text.endswith(expected) or any(words in expected for words in in_the_middle)


def test_level_0_hands_nothing_down_and_the_plan_begins_at_the_top():
    below = replace(PART, level=0, target_level=1)
    assert "hands down" not in below.explain()
    action = torch.tensor([[0.0, 1.0], [0.25, -1.0]])
    lines = Plan((below, PART), action, 1.0, 0.0, 0.0).explain(1).splitlines()
    assert [line.split(",")[0] for line in lines if line.startswith("level")] == ["level 1", "level 0"]
    assert lines[-1] == "action 0.25, -1"


def test_plans_of_some_episodes_keep_their_reasons():
    outcome = SubgoalOutcome(torch.tensor([REACHED, UNREACHED]), torch.tensor([0, 1]), HALVES)
    alternatives = logged().alternatives(torch.tensor([[0.0]]), torch.tensor([[4.0]])).select(torch.tensor([0, 0]))
    every = graph_path().select(torch.tensor([1, 0]))
    part = replace(PART, target_level=1, outcome=outcome, alternatives=alternatives, path=every, violation=torch.eye(2))
    assert part.select(torch.tensor([1])).explain(0) == part.explain(1)
    assert part.select(torch.tensor([False, True])).planned_at == 5


def test_a_hierarchy_explains_its_plan(agent):
    """Landmarks at the top, searches below."""
    agent.reset(torch.rand(3, 2, generator=torch.Generator().manual_seed(0)).numpy())
    agent.act(torch.rand(3, 2, generator=torch.Generator().manual_seed(1)).numpy())
    plan = agent.plan
    top, middle, bottom = reversed(plan.levels)
    assert top.alternatives is bottom.alternatives is bottom.outcome is None
    assert (middle.alternatives.cost[:, 0] > 0).all()
    own = agent.hierarchy.encode({"state": torch.rand(3, 2, generator=torch.Generator().manual_seed(1))})
    for part, at in ((top, own[2]), (middle, own[2]), (bottom, own[1])):
        torch.testing.assert_close(part.current_cost, (at - part.target).square().sum(-1))
    for episode in range(3):
        lines = [line for line in plan.explain(episode).splitlines() if line.startswith("level")]
        assert "landmark" in lines[0]
        assert "plans towards the subgoal of level 2" in lines[1]
        assert "plans towards the subgoal of level 1" in lines[2]


def test_constraints_and_their_multipliers_are_in_the_plan(agent):
    class Itself:
        std = torch.ones(2)

        def __call__(self, latent):
            return latent[..., :2]

    low, high = torch.full((2, 2), -1e3), torch.full((2, 2), 1e3)  # everything is forbidden
    goal = ObservationGoal(agent.hierarchy.encode({"state": torch.rand(2, 2)}))
    lagrangian = {
        "_target_": "hiwm.planning.solvers.augmented_lagrangian.AugmentedLagrangian",
        "solver": agent.config.solver,
    }
    gaussian = {f"level{k}": {"proposal": {"center": "gaussian"}} for k in range(3)}
    inverse = {f"level{k}": {"strategy": "follow_inverse"} for k in range(2)}
    for changes in ({"solver": lagrangian, **gaussian}, inverse):
        planned = agent.with_planner(graph="none", budget=1000, **changes)
        planned.reset(KeepOut(goal, BoxRegion(low, high, [Itself()] * 3)))
        planned.act(torch.rand(2, 2).numpy())
        for part in planned.plan.levels:
            assert part.violation.shape == (2, 1)
            assert (part.violation > 0).all()
            searched = "solver" in changes or part.level == 2
            assert (part.multipliers is not None) == ("solver" in changes)
            if part.level and searched:
                assert (part.alternatives.violation[:, 0] > 0).all()
            assert "violates its constraints" in part.explain()
