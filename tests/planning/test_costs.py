"""What a level minimises: goals, subgoals, costs of one's own, and constraints apart from them."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from planning_tools import (
    HIGH,
    INVERSE,
    LOW,
    Identity,
    begin,
    flat_planner,
    hierarchy_planner,
    path_of,
    planner_config,
    points,
    start,
    walk,
)
from torch_geometric.data import Data

from hiwm.heads.action_bank import ActionBank
from hiwm.heads.heads import Heads
from hiwm.planning.assemble import SHIPPED_COSTS, make_costs
from hiwm.planning.config import DEFAULTS, LevelPlanning
from hiwm.planning.costs import Cost, Evaluator
from hiwm.planning.explain.alternatives import CandidateLog
from hiwm.planning.goals import (
    BoxRegion,
    KeepOut,
    LabelledRegion,
    ObservationGoal,
    PartGoal,
    PredicateRegion,
    Waypoints,
)
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.planning.rollout import Rollout
from hiwm.planning.support import SupportCost
from hiwm.planning.targets import Target


def line(*places):
    """One episode at 0 whose candidates go through these places, each a list of numbers."""
    latents = torch.tensor([places])[..., None]
    return Rollout(torch.zeros(1, 1), torch.zeros_like(latents), latents)


def evaluator(*, penalty=None, forbidden=None, committed=1, costs=(), log=None):
    """Of plans towards 0 on a line; `forbidden`: place -> depth."""
    target = Target(lambda rollout: rollout.latents[..., 0].abs(), None, 0, 5)

    def constraint(latents):
        return None if forbidden is None else forbidden(latents[..., 0])

    named = {str(i): cost for i, cost in enumerate(costs)}
    return Evaluator(target, named, penalty, constraint, committed, log)


def above_two(place):
    return place - 2


def test_a_constraint_counts_up_to_the_step_of_least_cost():
    # the second candidate is best at its last step, after it has been in what is forbidden
    found = evaluator(forbidden=above_two).in_detail(line([1.0, 3.0, 1.5], [1.0, 3.0, 0.5]))
    assert found.scores.cost.tolist() == [[1.0, 0.5]]
    assert found.scores.violation.tolist() == [[[-1.0], [1.0]]]


def test_a_constraint_counts_at_least_up_to_the_next_plan():
    """The least cost is at the first step, but the next two are carried out as well."""
    for committed, depth in ((1, -1.0), (2, 1.0), (3, 2.0)):
        scores = evaluator(forbidden=above_two, committed=committed)(line([1.0, 3.0, 4.0, 5.0]))
        assert scores.violation.tolist() == [[[depth]]]


def test_a_constraint_ignores_steps_whose_cost_is_nan():
    found = evaluator(forbidden=above_two).in_detail(line([torch.nan, 1.0, 3.0]))
    assert found.scores.violation.isnan().all()  # it is not known where the first step leads
    own = [lambda rollout: torch.tensor([[[torch.nan, 0.0, 0.0]]])]
    found = evaluator(forbidden=above_two, costs=own).in_detail(line([0.5, 1.0, 3.0]))
    assert found.scores.violation.tolist() == [[[-1.0]]]


def test_every_shipped_cost_has_a_weight():
    assert list(SHIPPED_COSTS) == list(DEFAULTS.cost_weights)
    assert {f"{name}_weight" for name in SHIPPED_COSTS} == {
        key for key in LevelPlanning.model_fields if key.endswith("_weight") and key != "goal_weight"
    }


def test_costs_add_up_step_by_step():
    own = [lambda rollout: torch.tensor([[[5.0, 0.0, 1.0]]]), lambda rollout: torch.tensor([[[0.0, 0.5, 0.0]]])]
    found = evaluator(costs=own, penalty=lambda rollout: torch.tensor([[[0.0, 1.0, 2.0]]])).in_detail(
        line([1.0, 2.0, 3.0])
    )
    assert [name for name, _ in found.parts] == ["target", "0", "1", "failed before"]
    assert found.parts[0][1].amin(-1).tolist() == [[1.0]]
    assert found.scores.cost.tolist() == [[3.5]]  # at the second step
    assert found.penalty.tolist() == [[1.0]]
    assert found.scores.violation is None


def test_only_what_a_strategy_evaluates_is_remembered():
    log = CandidateLog()
    evaluate = evaluator(log=log)
    evaluate.in_detail(line([1.0, 2.0]))
    assert log.rounds == []
    evaluate(line([1.0, 2.0], [4.0, 3.0]))
    ((subgoals, cost, penalty, violation),) = log.rounds
    assert [actions.shape for actions in log.actions] == [(1, 2, 2, 1)]
    assert subgoals.tolist() == [[[1.0], [4.0]]]
    assert cost.tolist() == [[1.0, 3.0]]
    assert penalty.tolist() == violation.tolist() == [[0.0, 0.0]]


def test_a_goal_weight_draws_the_lower_levels_to_the_goal(agent):
    away = []
    for weight in (0.0, 1000.0):
        planner = hierarchy_planner(agent, INVERSE, level0={"goal_weight": weight})
        start(planner, points(8))
        plan = planner.plan({"state": points(8, seed=1)}).levels[0]
        away.append(planner.goal.cost(0, plan.predicted).amin(1).mean())
    assert away[1] < 0.9 * away[0]


def test_the_current_cost_is_that_of_staying(agent):
    planner = start(hierarchy_planner(agent, INVERSE, graph="none", level0={"goal_weight": 2.0}), points(4))
    state = points(4, seed=1)
    plan, latents = planner.plan({"state": state}), agent.hierarchy.encode({"state": state})
    for k in (0, 1):
        expected = (latents[k + 1] - plan.levels[k + 1].subgoal).square().sum(-1)
        expected = expected + (2 * planner.goal.cost(0, latents[0]) if k == 0 else 0)
        torch.testing.assert_close(plan.levels[k].current_cost, expected)
    torch.testing.assert_close(plan.levels[2].current_cost, planner.goal.cost(2, latents[2]))


def test_an_agent_goes_around_a_forbidden_region(exact):
    """From one side of a box to the other, with a search that sees the far side and with a grid of landmarks."""
    position = torch.tensor([[0.2, 0.5]]).repeat(4, 1)
    target = ObservationGoal([torch.tensor([[0.8, 0.5]]).repeat(4, 1)])
    low, high = torch.tensor([[0.4, 0.3]]).repeat(4, 1), torch.tensor([[0.6, 0.7]]).repeat(4, 1)
    box = BoxRegion(low, high, [Identity()])
    axis = torch.linspace(0, 1, 6)
    where = torch.cartesian_prod(axis, axis)
    apart = torch.cdist(where, where)
    edges = ((apart > 0) & (apart < 0.21)).nonzero().T
    graph = LandmarkGraph(Data(x=where, edge_index=edges, edge_attr=torch.ones(edges.shape[1])), edge_steps=4)
    planners = {
        "search": flat_planner(exact, level0={"horizon": 40, "replan": 2}, budget=4000),
        "graph": flat_planner(exact, graph="follow", level0={"replan": 2}, budget=1000, graphs=[graph]),
    }
    inside = ((where > 0.35) & (where < 0.65)).all(1)  # of the landmarks, as labels
    zones = {
        "box": KeepOut(target, box, margin=0.05),
        "predicate": KeepOut(target, PredicateRegion(lambda part: 0.21 - (part["state"] - 0.5).abs().amax(-1), {"state": [2]}, [Identity()])),
        "labels": KeepOut(target, LabelledRegion(where, inside, [Identity()]), margin=0.05),
    }  # fmt: skip
    for name, planner in planners.items():
        for goal, enters in ((target, True), *((zone, False) for zone in zones.values())):
            _, path = path_of(begin(planner, goal), position, 80)
            assert (path - target.latent(0)).norm(dim=-1).amin(0).max() < 0.1, name
            assert (box.depth(0, path.transpose(0, 1)) > 0).any().item() == enters, name


class Height(Cost):
    """Charges for the second number of a latent.

    Attributes:
        goals: it was started with.
    """

    def __init__(self, *, weight, hierarchy, level, heads):
        self.weight, self.hierarchy, self.level, self.heads = weight, hierarchy, level, heads
        self.goals = []

    def start(self, goal):
        self.goals.append(goal)

    def __call__(self, rollout):
        return self.weight * rollout.latents[..., 1].square()


def high(weight=3.0):
    return {"costs": {"height": {"_target_": "test_costs.Height", "weight": weight}}}


with_height = partial(flat_planner, allow=["test_costs"])


def test_a_cost_of_ones_own_is_minimised_too(exact):
    position, goal = points(3, 1), points(3, 2)
    planner = start(with_height(exact, level0=high()), goal)
    cost = planner.costs[0]["height"].cost
    assert (cost.hierarchy, cost.level) == (exact, 0)
    assert cost.heads.action_banks == ()
    plan = planner.plan({"state": position}).levels[0]
    distance = (plan.predicted - goal.unsqueeze(1)).square().sum(-1)
    torch.testing.assert_close(plan.nearest, distance.amin(1))
    torch.testing.assert_close(plan.cost, (distance + 3 * plan.predicted[..., 1].square()).amin(1))
    without = start(flat_planner(exact), goal).plan({"state": position}).levels[0]
    assert (plan.predicted[..., 1].amin(1) < without.predicted[..., 1].amin(1)).all()
    assert "without other costs" in plan.explain()


def test_a_cost_is_started_with_every_goal_it_is_asked_about(exact):
    planner = with_height(exact, level0={**high(), "replan": 1}, budget=1000)
    goals = [ObservationGoal([torch.tensor([[x, 0.5], [0.9, 0.5]])]) for x in (0.4, 0.8)]
    begin(planner, Waypoints(goals, tolerance=0.05**2))
    cost = planner.costs[0]["height"].cost
    assert cost.goals == [planner.goal]
    planner.plan({"state": torch.tensor([[0.4, 0.5], [0.1, 0.5]])})  # the first episode is at its waypoint
    assert cost.goals[1:] == [planner.goal]
    planner.select(torch.tensor([1]))
    assert cost.goals[2:] == [planner.goal]
    assert planner.goal.size == 1


def test_a_level_with_a_cost_of_its_own_does_not_judge_what_is_within_reach(agent, monkeypatch):
    """Level 0 avoids what the cost charges for, so that it stays away from a subgoal that it could reach."""
    reports = {}
    for name, changes in (("without", {}), ("with", {"level0": high(1000.0)})):
        planner = start(hierarchy_planner(agent, changes, allow=["test_costs"]), points(2))
        planner.plan({"state": points(2, 1)})
        found = reports[name] = []
        monkeypatch.setattr(
            planner.subgoal_monitors[1], "report_reach", partial(lambda to, *report: to.append(report), found)
        )
        walk(planner, points(2, 1), 6)
    assert reports["without"]
    assert not reports["with"]


def test_a_cost_that_is_not_trusted_or_does_not_fit_is_refused(exact):
    with pytest.raises(ValueError, match=r"'test_costs.Height' is not trusted"):
        flat_planner(exact, level0=high())
    with pytest.raises(ValueError, match=r"test_costs.Height: .*weigth"):
        with_height(exact, level0={"costs": {"height": {"_target_": "test_costs.Height", "weigth": 1.0}}})


def test_a_value_needs_a_goal_on_a_part_of_the_state(exact):
    def value(latent, part):
        return (latent - part).abs().sum(-1)

    planner = flat_planner(exact, heads=Heads(values=[value]), level0={"value_weight": 0.5})
    with pytest.raises(
        ValueError, match=r"planner.level0.value_weight is 0.5; expected 0, because ObservationGoal is not"
    ):
        start(planner, points(2))
    assert not hasattr(planner, "goal")
    goal = PartGoal(points(2), [Identity()])
    plan = begin(planner, goal).plan({"state": points(2, 1)}).levels[0]
    at = torch.cat([points(2, 1).unsqueeze(1), plan.predicted], 1)
    torch.testing.assert_close(plan.value, (at - goal.part.unsqueeze(1)).abs().sum(-1))
    distance = (plan.predicted - goal.part.unsqueeze(1)).square().sum(-1)
    torch.testing.assert_close(plan.cost, (distance + 0.5 * plan.value[:, 1:]).amin(1))


@pytest.mark.parametrize(
    ("step_length", "step_cost", "margin"),
    [
        (0.05, 0.05**2, 0.2),  # the cost is a squared length, and the margin twice the spacing
        (0.05, 1.0, 0.2),  # the cost is a number of steps, as at a metric level
        (0.6, 1.0, 0.3),  # half a step is more than twice the spacing
    ],
)
def test_a_plan_pays_for_every_step_that_leaves_the_real_latents(step_length, step_cost, margin):
    """Real latents lie 0.1 apart along a line."""
    line = torch.stack([torch.linspace(0, 1, 11), torch.zeros(11)], 1)
    twice = SimpleNamespace(start=line.repeat(2, 1))
    model = SimpleNamespace(bank=twice, step_length=step_length, step_cost=step_cost, horizon=2)
    cost = SupportCost(model, weight=2.0)
    on, off = [[0.5, 0.0], [0.6, 0.1]], [[0.5, 0.5], [0.6, 0.4]]
    latents = torch.tensor([[on, off]])
    found = cost(Rollout(torch.tensor([[0.5, 0.0]]), torch.zeros(1, 2, 2, 2), latents))
    off = torch.tensor([[[0.0, 0.0], [0.5 - margin, 0.5 - margin + 0.4 - margin]]])
    torch.testing.assert_close(found, 2 * step_cost * off / step_length)


def test_a_plan_is_compared_with_the_real_latents_that_it_can_come_near():
    """Real latents lie 0.1 apart along a line. Two steps of 0.05 lead 0.1 far, and twice that is 0.2."""
    line = torch.stack([torch.linspace(0, 1, 11), torch.zeros(11)], 1)
    model = SimpleNamespace(bank=SimpleNamespace(start=line), step_length=0.05, step_cost=0.05, horizon=2)
    cost = SupportCost(model, weight=1.0)
    start = torch.tensor([[0.02, 0.0], [0.77, 0.0], [-3.0, 0.0]])
    latents = torch.tensor([[[[0.1, 0.0], [0.9, 0.0]]]]).expand(3, 1, 2, 2)
    # near the starts are the latents from 0 to 0.2, from 0.6 to 1, and again from 0 to 0.2
    away = torch.tensor([[[0.0, 0.7]], [[0.5, 0.0]], [[0.0, 0.7]]])
    paid = (away - 0.2).clamp_min(0).cumsum(-1)
    torch.testing.assert_close(cost(Rollout(start, torch.zeros(3, 1, 2, 2), latents)), paid)
    torch.testing.assert_close(cost(Rollout(start, torch.zeros(3, 1, 2, 2), latents)), paid)  # the same start again
    start[0, 0] = 0.77  # changed in place
    paid[0] = paid[1]
    torch.testing.assert_close(cost(Rollout(start, torch.zeros(3, 1, 2, 2), latents)), paid)


def test_the_spacing_of_many_latents_is_that_of_some():
    side = torch.linspace(0, 6.3, 64)
    grid = torch.cartesian_prod(side, side)  # 4096 latents, 0.1 apart
    model = SimpleNamespace(bank=SimpleNamespace(start=grid), step_length=0.05, step_cost=0.05, horizon=2)
    torch.testing.assert_close(SupportCost(model, weight=1.0).margin, torch.tensor(0.2), rtol=1e-2, atol=0)
    # most are 0.1 apart, some at the low end less and some at the high end far more: the median, of a sample from all over
    line = torch.cat([torch.arange(1100) * 1e-4, 1 + torch.arange(2000) * 0.1, 500 + torch.arange(900.0)])
    uneven = SimpleNamespace(
        **{**vars(model), "bank": SimpleNamespace(start=torch.stack([line, torch.zeros(4000)], 1))}
    )
    torch.testing.assert_close(SupportCost(uneven, weight=1.0).margin, torch.tensor(0.2), rtol=2e-2, atol=0)


def holds_inputs(start, number, step):
    """The model of a level at latents (N, D) whose first `number` dimensions are 0.001 of the inputs, and the level; each step adds `step` to the latent."""
    bank = SimpleNamespace(start=start, actions=torch.zeros(len(start), 1, 2))
    model = SimpleNamespace(k=0, bank=bank, step_length=9.0, step_cost=3.0, horizon=2)
    encoder = SimpleNamespace(read_inputs=lambda z: 1000 * z[..., :number])
    return model, SimpleNamespace(encoder=encoder, predict=lambda z, _: z + step)


def test_latents_that_hold_their_inputs_are_compared_by_these():
    """Inputs lie 0.1 apart along a line, all embeddings are alike, and a step moves the first input by 1."""
    line = torch.stack([torch.linspace(0, 0.001, 11), torch.zeros(11), torch.ones(11)], 1)
    model, level = holds_inputs(line, 2, torch.tensor([0.001, 0.0, 0.0]))
    latents = torch.tensor([[[[0.0005, 0.0, 1.0], [0.0005, 0.0, 7.0]], [[0.0005, 0.0005, 1.0], [0.0, 0.0, 1.0]]]])
    found = SupportCost(model, weight=2.0, inputs_of=level)(Rollout(line[:1], torch.zeros(1, 2, 2, 2), latents))
    torch.testing.assert_close(found, torch.zeros(1, 2, 2))  # half a step costs nothing
    cost = SupportCost(model, weight=2.0, margin=0.2, inputs_of=level)
    found = cost(Rollout(line[:1], torch.zeros(1, 2, 2, 2), latents))
    torch.testing.assert_close(found, 2 * 3.0 * torch.tensor([[[0.0, 0.0], [0.3, 0.3]]]))


@pytest.mark.parametrize("others", [0, 1])
def test_discrete_inputs_are_compared_one_by_one(others):
    """Two buttons, off or on, of which the data hold no state with both on; `others` inputs more. A step moves one of three inputs by 1."""
    states = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).repeat(20, 1)
    real = 0.001 * torch.cat([torch.linspace(0, 1, 60).unsqueeze(1)[:, :others], states], 1)
    model, level = holds_inputs(real, 2 + others, torch.tensor([0.0] * others + [0.001, 0.0]))
    on = torch.tensor([[[[0.5] * others + [1.0, 1.0]], [[0.5] * others + [0.5, 1.0]], [[0.5] * others + [0.6, 1.3]]]])
    cost = SupportCost(model, weight=1.0, margin=0.1, inputs_of=level)
    found = cost(Rollout(real[:1], torch.zeros(1, 3, 1, 2), 0.001 * on))
    torch.testing.assert_close(found, 3.0 * torch.tensor([[[0.0], [0.4], [0.4]]]), atol=0.02, rtol=0)


def test_a_level_sets_the_margin_and_whether_inputs_are_compared():
    line = torch.stack([torch.linspace(0, 1, 11), torch.zeros(11)], 1)
    model, level = holds_inputs(line, 2, 0.3)
    hierarchy = SimpleNamespace(levels=[level])
    for inputs, length in ((False, 9.0), (True, 1000 * 0.3 * 2**0.5)):
        config = planner_config(level0={"support_weight": 1.0, "support_margin": 3.0, "support_inputs": inputs})
        costs = make_costs(config, model, hierarchy, Heads())
        torch.testing.assert_close(costs["support"].margin, torch.tensor(3 * length))


@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_the_margin_is_in_steps_and_at_least_twice_the_spacing(margin):
    line = torch.stack([torch.linspace(0, 1, 101), torch.zeros(101)], 1)
    model = SimpleNamespace(bank=SimpleNamespace(start=line), step_length=0.02, step_cost=0.02, horizon=2)
    found = SupportCost(model, weight=1.0, margin=margin).margin
    torch.testing.assert_close(found, torch.tensor(max(0.02 * margin, 0.02)), rtol=1e-3, atol=0)


def test_all_of_a_collapsed_level_is_supported():
    model = SimpleNamespace(bank=SimpleNamespace(start=torch.ones(5, 2)), step_length=0.0, step_cost=0.0, horizon=4)
    latents = torch.rand(1, 3, 4, 2)
    found = SupportCost(model, weight=1.0)(Rollout(torch.zeros(1, 2), torch.zeros(1, 3, 4, 2), latents))
    assert torch.equal(found, torch.zeros(1, 3, 4))


def test_a_search_with_a_support_weight_stays_on_the_data(exact):
    """The data lie on an L: straight ahead, then up. Without the cost, the plan cuts the corner."""
    along = torch.linspace(0, 0.2, 21)
    corner = torch.cat([torch.stack([along, 0 * along], 1), torch.stack([0 * along + 0.2, along], 1)])
    actions = torch.ones(len(corner), 8, 2)
    bank = ActionBank(low=LOW, high=HIGH, start=corner, actions=actions, steps=torch.full((len(corner),), 8))
    farthest = {}
    for weight in (0.0, 1e4):
        level = {"horizon": 8, "action_repeat": 1, "replan": 8, "support_weight": weight}
        planner = flat_planner(exact, budget=4000.0, heads=Heads(action_banks=[bank]), level0=level)
        plan = start(planner, torch.full((1, 2), 0.2)).plan({"state": torch.zeros(1, 2)}).levels[0]
        farthest[weight] = torch.cdist(plan.predicted[0], corner).amin(1).max().item()
        assert ("support" in plan.parts.names) == bool(weight)
    assert farthest[0.0] > 0.06
    assert farthest[1e4] < 0.04
