"""Judging subgoals by hand, and a two-level stack before a wall that its upper model does not know."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hiwm.config import load_config
from hiwm.hierarchy import Hierarchy, LevelSpec
from hiwm.levels.parts import Encoder, Predictor
from hiwm.planning.config import PlannerConfig
from hiwm.planning.goals import ObservationGoal
from hiwm.planning.planner import HierarchicalPlanner
from hiwm.planning.reasons import OPEN, REACHED, UNREACHABLE, UNREACHED
from hiwm.planning.subgoals import Subgoals

HERE = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
THERE = torch.tensor([[4.0, 0.0], [14.0, 0.0]])


def handed(patience=2.0, step=0, remembers=True):
    """Two episodes, each sent four steps on, due in five environment steps."""
    subgoals = Subgoals(1.0, patience, remembers, HERE)
    subgoals.hand_down(HERE, THERE, step, deadline=5)
    return subgoals


def blamed(subgoals, start=HERE, end=THERE):
    """What going from start to end in one step costs each episode."""
    return subgoals.cost(start, end[:, None, None])[:, 0, 0].tolist()


def test_a_subgoal_is_reached_within_half_its_distance_or_failed_when_its_time_is_over():
    subgoals = handed(step=20)
    assert subgoals.outcome.outcome.tolist() == [OPEN, OPEN]
    assert not subgoals.judge(torch.tensor([[1.0, 0.0], [11.0, 0.0]]), 25).any()
    assert not subgoals.judge(torch.tensor([[1.9, 0.0], [12.0, 0.0]]), 29).any()
    assert subgoals.outcome.outcome.tolist() == [OPEN, REACHED]
    assert subgoals.judge(torch.tensor([[-3.0, 0.0], [10.0, 0.0]]), 30).tolist() == [True, False]
    verdict = subgoals.outcome
    assert verdict.outcome.tolist() == [UNREACHED, REACHED]
    assert verdict.planned_at.tolist() == [20, 20]
    torch.testing.assert_close(verdict.cost, torch.tensor([2.1, 2.0]).square())  # the nearest it came
    assert verdict.scale.tolist() == [16, 16]
    assert not subgoals.judge(THERE, 31).any()  # each is judged once: it may have come there by another way
    assert subgoals.outcome.outcome.tolist() == [UNREACHED, REACHED]
    assert blamed(subgoals) == [1, 0]
    assert verdict.text(0) == "subgoal of step 20 not reached in time: came to 0.52 of its distance"
    assert verdict.text(1) == "subgoal of step 20 reached: came to 0.50 of its distance"


def test_the_last_of_several_is_told():
    subgoals = handed()
    subgoals.hand_down(HERE, THERE + 1, 3, deadline=5)
    subgoals.hand_down(HERE, THERE + 2, 100, deadline=5)
    subgoals.judge(torch.stack([HERE[0], THERE[1]]), 50)
    assert subgoals.outcome.outcome.tolist() == [UNREACHED, REACHED]
    assert subgoals.outcome.planned_at.tolist() == [3, 100]


def test_a_subgoal_nearer_than_a_step_is_reached_within_half_a_step():
    subgoals = Subgoals(1.0, 1.0, True, HERE)
    subgoals.hand_down(HERE, HERE + torch.tensor([0.1, 0.0]), 0, deadline=5)
    assert not subgoals.judge(HERE + torch.tensor([[0.5, 0.0], [0.7, 0.0]]), 5)[0]
    assert subgoals.outcome.outcome.tolist() == [REACHED, REACHED]


def test_what_the_level_below_sees_no_way_to_has_failed_at_once():
    subgoals = handed()
    subgoals.hand_down(HERE, THERE, 3, deadline=5)
    subgoals.answer(3, torch.tensor([4.1, 3.9]))  # beyond and within half of the four steps
    assert subgoals.judge(HERE, 4).tolist() == [True, False]
    assert subgoals.outcome.outcome.tolist() == [UNREACHABLE, OPEN]
    assert subgoals.handed.failed.tolist() == [[False, True], [False, False]]
    assert "the level below saw no way" in subgoals.outcome.text(0)
    assert subgoals.outcome.text(1) == ""
    subgoals.answer(0, torch.tensor([4.1, 4.1]))
    subgoals.judge(torch.stack([HERE[0], THERE[1]]), 5)
    assert subgoals.outcome.outcome.tolist() == [UNREACHABLE, REACHED]  # it got there all the same


def test_the_same_way_costs_one_and_others_less_the_less_they_are_like_it():
    subgoals = handed()
    assert blamed(subgoals) == [0, 0]  # not judged yet
    subgoals.judge(torch.stack([HERE[0], THERE[1]]), 10)
    assert blamed(subgoals) == [1, 0]
    aside = torch.tensor([0.0, 3.0])
    assert blamed(subgoals, end=THERE + aside)[0] == pytest.approx(math.exp(-9 / 16))
    assert blamed(subgoals, start=HERE + aside, end=THERE + aside)[0] == pytest.approx(math.exp(-18 / 16))
    # along a plan: nothing before it is tried, one for each time it is
    path = torch.tensor([[0.0, 100.0], [0.0, 0.0], [4.0, 0.0], [0.0, 0.0], [4.0, 0.0]])
    along = subgoals.cost(HERE, path.expand(2, 3, 5, 2))
    assert along.shape == (2, 3, 5)
    back = math.exp(-2)
    torch.testing.assert_close(along[0], torch.tensor([0, 0, 1, 1 + back, 2 + back]).expand(3, 5), atol=1e-3, rtol=0)
    assert along[1].abs().max() < 1e-6


def test_the_cost_has_a_gradient_where_it_is_greatest():
    subgoals = handed()
    subgoals.judge(HERE, 10)
    path = THERE[:, None, None].clone().requires_grad_()
    subgoals.cost(HERE, path).sum().backward()
    assert path.grad is not None
    assert path.grad.isfinite().all()


def test_what_is_reached_after_all_is_forgiven():
    subgoals = handed()
    subgoals.judge(HERE, 10)
    beside = torch.tensor([[1.0, 0.0], [0.0, 3.0]])  # of the first episode half a scale away, of the second more
    subgoals.hand_down(HERE + beside, THERE + beside, 10, deadline=5)
    subgoals.judge(THERE + beside, 12)
    assert blamed(subgoals) == [0, 1]
    assert subgoals.handed.start.shape[1] == 1  # what is neither open nor failed anywhere is forgotten


def test_what_is_not_remembered_is_told_and_forgotten():
    subgoals = handed(remembers=False)
    assert subgoals.judge(HERE, 10).tolist() == [True, True]
    assert subgoals.outcome.outcome.tolist() == [UNREACHED, UNREACHED]
    assert blamed(subgoals) == [0, 0]
    assert subgoals.handed.start.shape[1] == 0


def test_keep_goes_on_with_some():
    subgoals = handed()
    subgoals.judge(torch.stack([THERE[0], HERE[1]]), 10)
    subgoals.select(torch.tensor([False, True]))
    assert subgoals.outcome.outcome.tolist() == [UNREACHED]
    assert blamed(subgoals, HERE[1:], THERE[1:]) == [1]
    assert subgoals.judge(HERE[1:], 11).tolist() == [False]


STEP = 0.05
WALL, TOP = 0.5, 0.6  # x of a wall from y = 0 up to the way round it
GOAL = torch.tensor([[0.7, 0.3]])
CONFIG = PlannerConfig(
    graph="none",
    hops=1,
    budget=200,
    proposal=["gaussian"] * 2,
    horizon=[5, 3],
    replan=[5, 5],
    repeat=[5, 1],
    std=[1.0, 1.0],
    inverse_std=[0.5, 0.5],
    macro_bound=1.0,
    solver={"_target_": "hiwm.planning.solvers.cem.CEM"},
)


def blocked(before, after):
    crosses = (before[..., 0] - WALL) * (after[..., 0] - WALL) <= 0
    return crosses & ((before[..., 1] + after[..., 1]) / 2 < TOP)


class Moves(Predictor):
    """z' = z + step * a; with a wall, unless that leads through it."""

    def __init__(self, step, walls=False):
        super().__init__(2)
        self.length, self.walls = step, walls
        self.fit(torch.full((2,), step))

    def forward(self, latent, action):
        after = latent + self.length * action
        return torch.where(blocked(latent, after).unsqueeze(-1), latent, after) if self.walls else after


class Same(Encoder):
    dim = 2

    def forward(self, inputs):
        return inputs["latent"]


def planner(walls=False, seed=0, **changes):
    """Two levels whose latents are positions; `walls`: level 0 knows the wall."""
    levels = load_config(["levels.level1.action_encoder.dim=2"]).levels
    specs = [
        LevelSpec(levels["level0"], 1, {"state": (2,)}, 2, ""),
        LevelSpec(levels["level1"], 5, {"latent": (2,)}, 2, ""),
    ]
    below, above = (spec.build() for spec in specs)
    below.predictor, above.predictor, above.encoder = Moves(STEP, walls), Moves(5 * STEP), Same()
    hierarchy = Hierarchy([below, above], specs).eval().requires_grad_(False)
    config = replace(CONFIG, **changes)
    made = HierarchicalPlanner(hierarchy, config, torch.full((2,), -1.0), torch.full((2,), 1.0))
    made.start(ObservationGoal([GOAL, GOAL]), torch.Generator().manual_seed(seed))
    return made


def episode(planner, steps, state=(0.3, 0.3)):
    """Plans, and whether the goal was reached."""
    state, plans = torch.tensor([state]), []
    for _ in range(steps):
        plans.append(planner.plan({"state": state}))
        after = state + STEP * plans[-1].action
        state = torch.where(blocked(state, after).unsqueeze(1), state, after)
        if (state - GOAL).norm() < STEP:
            return plans, True
    return plans, False


def test_an_unknown_wall_is_gone_round_with_feedback_alone():
    plans, arrived = episode(planner(seed=2), 60)
    assert not arrived
    asked = torch.cat([plan.levels[1].subgoal for plan in plans[20:]])
    assert (asked[:, 0] > WALL).all()  # again and again, right through the wall
    assert (asked[:, 1] < TOP).all()
    assert all(plan.levels[1].penalty is None for plan in plans)
    assert plans[-1].levels[1].outcome.outcome.item() == UNREACHED  # seen, but not learned from
    plans, arrived = episode(planner(seed=2, feedback=1.0), 60)
    assert arrived
    part = next(plan.levels[1] for plan in plans if plan.levels[1].penalty is not None)
    assert part.planned_at >= 15  # three times the five steps it should take
    assert 0 < part.penalty.item() <= part.cost.item()


def test_nothing_changes_before_something_failed():
    with_it, without = (episode(planner(feedback=feedback), 15)[0] for feedback in (1.0, 0.0))
    for one, other in zip(with_it, without, strict=True):
        assert torch.equal(one.action, other.action)
        assert torch.equal(one.levels[1].cost, other.levels[1].cost)


def test_the_penalty_is_in_energies_of_where_the_episode_is():
    costs = {}
    for feedback in (1.0, 2.0):
        made = planner(feedback=feedback, patience=1.0)
        state = torch.tensor([[0.4, 0.3]])
        for _ in range(6):
            plan = made.plan({"state": state})  # it does not move
        part = plan.levels[1]
        again = made.subgoals[1].cost(state, part.predicted.unsqueeze(1))[0, 0]
        away = (part.predicted[0] - GOAL).square().sum(-1)
        again = again[(away + feedback * 0.3**2 * again).argmin()]  # of the step that counts
        costs[feedback] = part.penalty.item()
        assert costs[feedback] == pytest.approx(feedback * again.item() * 0.3**2, rel=1e-4)
        torch.testing.assert_close(part.current_cost, torch.tensor([0.3**2]))


@pytest.mark.parametrize(("walls", "changes", "thinks_again"), [
    (False, {"feedback": 1.0, "patience": 1.0}, 5),  # when the first one's time is over
    (True, {"feedback": 1.0}, 1),  # level 0 told that it sees no way
    (True, {"feedback": 1.0, "horizon": [4, 3], "repeat": [1, 1]}, 2),  # which it sees a step later if it looks four ahead
    (True, {"feedback": 0.0}, 20),
])  # fmt: skip
def test_a_level_plans_anew_when_its_subgoal_failed(walls, changes, thinks_again):
    made = planner(walls, **{"replan": [1, 20], "budget": 400, **changes})
    plans, _ = episode(made, 21, state=(0.45, 0.3))
    steps = [step for step, plan in enumerate(plans) if plan.levels[1].planned_at == step]
    assert steps[:2] == [0, thinks_again]


def test_a_level_that_minds_the_goal_too_does_not_tell_what_is_out_of_reach():
    """The energy of its best plan is then no distance from the subgoal."""
    made = planner(walls=True, replan=[1, 20], budget=400, feedback=1.0, goal_weight=[2.0, 0.0])
    plans, _ = episode(made, 3, state=(0.45, 0.3))
    assert plans[2].levels[1].planned_at == 0
    below, above = plans[0].levels
    away = (torch.tensor([[0.45, 0.3]]) - above.subgoal).square().sum(-1)
    torch.testing.assert_close(below.current_cost, away + 2 * 0.25**2)


def test_level_0_plans_with_the_levels_that_plan_anew():
    made = planner(replan=[5, 20], feedback=1.0, patience=1.0)
    plans, _ = episode(made, 6, state=(0.45, 0.3))
    below, above = plans[5].levels
    assert below.planned_at == above.planned_at == 5
    assert torch.equal(below.target, above.subgoal)


def test_all_levels_below_one_that_plans_anew_do_so_too(agent, monkeypatch):
    made = agent.with_planner(graph="none", replan=[3, 9, 9], budget=400, feedback=1.0).planner
    goal = ObservationGoal(agent.hierarchy.encode({"state": torch.rand(2, 2)}))
    made.start(goal, torch.Generator().manual_seed(0))
    judge, failed = made._judge, {3: 2, 6: 1}
    monkeypatch.setattr(made, "_judge", lambda latents: (judge(latents), failed.get(made.step, -1))[1])
    plans = [made.plan({"state": torch.rand(2, 2)}) for _ in range(8)]
    assert [part.planned_at for part in plans[3].steps] == [3, 3, 3]
    assert [part.planned_at for part in plans[6].steps] == [6, 6, 3]


def test_new_episodes_know_nothing_of_what_failed():
    made = planner(feedback=1.0, patience=1.0)
    first, _ = episode(made, 10, state=(0.45, 0.3))
    assert first[-1].levels[1].penalty is not None
    made.start(ObservationGoal([GOAL, GOAL]), torch.Generator().manual_seed(0))
    again, _ = episode(made, 10, state=(0.45, 0.3))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.action, other.action)


def test_episodes_that_go_on_keep_what_failed_in_them():
    made = planner(feedback=1.0, patience=1.0)
    made.start(ObservationGoal([GOAL.repeat(2, 1)] * 2), torch.Generator().manual_seed(0))
    state = torch.tensor([[0.1, 0.9], [0.45, 0.3]])
    for _ in range(6):
        plan = made.plan({"state": state})
        state = state + torch.tensor([[STEP], [0.0]]) * plan.action  # the first moves, the second cannot
    assert made.subgoals[1].handed.failed.any(1).tolist() == [False, True]
    made.select(torch.tensor([1]))
    made.step = 10
    (part,) = made.plan({"state": state[1:]}).levels[1:]
    assert part.penalty.shape == (1,)
    assert part.outcome.outcome.tolist() == [UNREACHED]
