"""Why a plan is what it is, in tensors and in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch_geometric.data import Data

from hiwm.planning.goals import KeepOut, ObservationGoal, Region
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.planning.graph.navigator import GraphNavigator
from hiwm.planning.graph.path import GraphPath
from hiwm.planning.plan import LevelPlan, Plan
from hiwm.planning.reasons import REACHED, UNREACHED, Verdict
from hiwm.planning.rejected import Tried
from hiwm.planning.solvers.solver import Scores

NUMBERS = torch.arange(2.0)
PART = LevelPlan(
    level=1, target=torch.zeros(2, 3), target_level=2, subgoal=torch.zeros(2, 4), due=10, made_at=5, here=NUMBERS + 4,
    actions=torch.zeros(2, 1, 2), predicted=torch.zeros(2, 1, 4), nearest=NUMBERS + 1, energy=NUMBERS + 1,
)  # fmt: skip


def route():
    """Three landmarks in a row and one that leads nowhere; the goal is at the third."""
    following = torch.tensor([[1], [2], [2], [3]])
    rows = [torch.tensor(x) for x in ([0, 2, 3], [1, 2, 3], [2, 2, 2])]
    return GraphPath(*rows, torch.tensor([2.5, 0.0, torch.inf]), torch.zeros(3, dtype=torch.long), following)


def tried(penalty=None, violation=None):
    """One search for one episode in two rounds: subgoals on a line."""
    where, energy = torch.tensor([[4.0, 4.5, 1.0, 8.0, 9.0]]), torch.tensor([[1.0, 2.0, 6.0, 3.0, 4.0]])
    found = Tried()
    for part in (slice(0, 2), slice(2, 5)):
        limits = None if violation is None else violation[:, part]
        cost = None if penalty is None else penalty[:, part]
        found.add(where[:, part, None], Scores(energy[:, part], limits), cost)
    return found


def test_a_route_counts_its_edges_and_says_where_it_leads():
    assert [route().num_edges(i) for i in range(2)] == [2, 0]
    assert route().text(0) == "landmark 1, on a path of 2 edges to the goal at cost 2.5"
    assert route().text(1) == "the goal itself, at the end of its path over the landmarks"
    assert route().text(2) == "landmark 3, although the graph has no path to the goal"
    assert route().select(torch.tensor([1])).text(0) == route().text(1)


def test_the_navigator_keeps_the_path_of_its_last_target():
    where = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    edges = torch.tensor([[0, 1, 2], [1, 2, 3]])
    graph = LandmarkGraph(Data(x=where, edge_index=edges, edge_attr=torch.tensor([1.0, 2.0, 3.0])), edge_steps=10)
    ways = GraphNavigator(graph, 0, 1, 0.0, 3.0)
    ways.start(ObservationGoal([where[[3, 3]]]))
    ways.target(torch.tensor([[0.1, 0.0], [2.1, 0.0]]), 0)
    assert ways.path.text(0) == "landmark 1, on a path of 3 edges to the goal at cost 6.0"
    assert ways.path.text(1) == "the goal itself, at the end of its path over the landmarks"
    assert ways.path.cost.tolist() == [6, 3]


def test_rejected_are_the_best_that_are_unlike_the_chosen_one_and_each_other():
    found = tried().rejected(here=torch.tensor([[0.0]]), chosen=torch.tensor([[4.0]]))
    assert found.subgoal[0, :2, 0].tolist() == [8, 1]  # 4.5 is within half the way of 4, and 9 of 8
    assert found.energy.tolist() == [[3, 6, torch.inf]]
    assert found.away[0, :2].tolist() == [4, 3]
    assert found.text(0, energy=1.0) == ["energy 3 (4 from it)", "energy 6 (3 from it)"]


def test_what_would_have_been_chosen_comes_first_with_what_spoke_against_it():
    penalty, violation = torch.zeros(1, 5), torch.full((1, 5, 2), -1.0)
    penalty[0, 2], violation[0, 3, 1] = 5.5, 0.25
    found = tried(penalty, violation).rejected(torch.tensor([[0.0]]), torch.tensor([[4.0]]))
    assert found.text(0, energy=1.0) == [
        "energy 6, 5.5 of it because that failed before (3 from it)",
        "energy 3, forbidden by 0.25 (4 from it)",
    ]
    kept = found.keep(torch.tensor([0, 0]))
    assert kept.text(1, 1.0) == found.text(0, 1.0)


def test_candidates_that_are_no_number_are_not_told():
    found = Tried()
    found.add(torch.tensor([[[4.0], [8.0]]]), Scores(torch.tensor([[1.0, torch.nan]])), None)
    told = found.rejected(torch.tensor([[0.0]]), torch.tensor([[4.0]]))
    assert told.text(0, 1.0) == []
    assert "rejected nothing much different" in replace(PART, rejected=told).explain()


def test_what_else_counts_is_told_apart_from_how_near_a_plan_comes():
    first = replace(PART, energy=PART.energy + 7).explain(1).splitlines()[0]
    assert first.endswith("energy 5 here, 2 where it plans to come (9 with all that counts)")


def test_a_date_is_told_in_steps():
    told = replace(PART, horizon=torch.tensor([0, 2]))
    assert "  is to meet the goal within 2 of its steps" in told.explain(1).splitlines()
    assert "is to meet" not in told.explain(0)
    # who has taken over says so, each episode for itself
    assert "aims at the goal itself, past level 2;" in told.explain(1)
    assert "aims at the subgoal of level 2;" in told.explain(0)


def test_a_level_says_what_it_aims_at_what_it_hands_down_and_what_became_of_the_last():
    verdict = Verdict(torch.tensor([REACHED, UNREACHED]), torch.tensor([0, 1]), NUMBERS, NUMBERS + 1)
    assert replace(PART, verdict=verdict).explain(1).splitlines() == [
        "level 1, planned at step 5, aims at the subgoal of level 2; energy 5 here, 2 where it plans to come",
        "  hands down a subgoal until step 15",
        "  subgoal of step 1 not reached in time: came to 0.71 of its distance",
    ]


@pytest.mark.parametrize(("changes", "told"), [
    ({"target_level": 1}, "aims at the goal itself; energy 4 here"),
    ({"target_level": 1, "target": None}, "aims at any latent that meets the goal; energy 4 here"),
    ({"target_level": 1, "route": route()}, "aims at landmark 1, on a path of 2 edges"),
    ({"energy": None, "actions": None, "predicted": None}, "energy 4 here\n  hands down that until step 15"),
    ({"penalty": NUMBERS + 0.5}, "until step 15, at a cost of 0.5 for what failed before"),
    ({"penalty": NUMBERS}, "until step 15"),
    ({"violation": torch.tensor([[0.5, -0.1], [0, 0]])}, "enters what is forbidden by 0.5, -0.1"),
    ({"violation": torch.tensor([[-0.5], [0]])}, "stays out of what is forbidden"),
    ({"violation": torch.ones(2, 1), "multipliers": torch.full((2, 1), 7.0)}, "by 1, at prices of 7"),
])  # fmt: skip
def test_reasons_in_words(changes, told):
    text = replace(PART, **changes).explain()
    assert told in text
    assert text.endswith(told) or "of 2 edges" in told or "energy 4" in told or "forbidden" in told or "prices" in told


def test_level_0_hands_nothing_down_and_the_plan_begins_at_the_top():
    below = replace(PART, level=0, target_level=1)
    assert "hands down" not in below.explain()
    action = torch.tensor([[0.0, 1.0], [0.25, -1.0]])
    lines = Plan((below, PART), action, 1.0, 0.0, 0.0).explain(1).splitlines()
    assert [line.split(",")[0] for line in lines if line.startswith("level")] == ["level 1", "level 0"]
    assert lines[-1] == "action 0.25, -1"


def test_plans_of_some_episodes_keep_their_reasons():
    verdict = Verdict(torch.tensor([REACHED, UNREACHED]), torch.tensor([0, 1]), NUMBERS, NUMBERS + 1)
    rejected = tried().rejected(torch.tensor([[0.0]]), torch.tensor([[4.0]])).keep(torch.tensor([0, 0]))
    every = route().select(torch.tensor([1, 0]))
    part = replace(PART, target_level=1, verdict=verdict, rejected=rejected, route=every, violation=torch.eye(2))
    assert part.keep(torch.tensor([1])).explain(0) == part.explain(1)
    assert part.keep(torch.tensor([False, True])).made_at == 5


def test_a_stack_explains_what_it_does(agent):
    """Landmarks at the top, searches below."""
    agent.reset(torch.rand(3, 2, generator=torch.Generator().manual_seed(0)).numpy())
    agent.act(torch.rand(3, 2, generator=torch.Generator().manual_seed(1)).numpy())
    plan = agent.plan
    top, middle, bottom = reversed(plan.steps)
    assert top.rejected is bottom.rejected is bottom.verdict is None
    assert (middle.rejected.energy[:, 0] > 0).all()
    own = agent.hierarchy.encode({"state": torch.rand(3, 2, generator=torch.Generator().manual_seed(1))})
    for part, at in ((top, own[2]), (middle, own[2]), (bottom, own[1])):
        torch.testing.assert_close(part.here, (at - part.target).square().sum(-1))
    for episode in range(3):
        lines = [line for line in plan.explain(episode).splitlines() if line.startswith("level")]
        assert "landmark" in lines[0]
        assert "aims at the subgoal of level 2" in lines[1]
        assert "aims at the subgoal of level 1" in lines[2]


def test_constraints_and_their_prices_are_in_the_plan(agent):
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
    for changes in ({"solver": lagrangian, "proposal": ["gaussian"] * 3}, {"proposal": ["inverse"] * 3}):
        planned = agent.with_planner(landmarks="none", budget=1000, **changes)
        planned.reset(KeepOut(goal, Region(low, high, [Itself()] * 3)))
        planned.act(torch.rand(2, 2).numpy())
        for part in planned.plan.steps:
            assert part.violation.shape == (2, 1)
            assert (part.violation > 0).all()
            searched = "solver" in changes or part.level == 2
            assert (part.multipliers is not None) == ("solver" in changes)
            if part.level and searched:
                assert (part.rejected.violation[:, 0] > 0).all()
            assert "what is forbidden" in part.explain()
