"""Subgoals evaluated by hand, and a hierarchy of two levels before a wall that its upper model does not know."""

from __future__ import annotations

import math

import pytest
import torch
from planning_tools import noise, planner_config

from hiwm.config import load_config
from hiwm.hierarchy import Hierarchy, LevelSpec
from hiwm.levels.parts import Encoder, Predictor
from hiwm.planning.assemble import make_planner
from hiwm.planning.explain.outcome import OPEN, REACHED, UNREACHABLE, UNREACHED
from hiwm.planning.goals import ObservationGoal
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.rollout import Rollout
from hiwm.planning.subgoals import SubgoalMonitor

HERE = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
THERE = torch.tensor([[4.0, 0.0], [14.0, 0.0]])


def handed(patience=2.0, step=0, failure_penalty=1.0, p=2):
    """Two episodes, each sent four steps on, with a deadline in five environment steps."""
    subgoals = SubgoalMonitor(1.0, p, patience, failure_penalty, HERE)
    subgoals.hand_down(HERE, THERE, step, deadline=5)
    return subgoals


def similarity(subgoals, start, latents):
    """How like paths from latents (B, D) along latents (B, S, H, D) are to what failed."""
    return subgoals.similarity(Rollout(start, latents[..., :0], latents))


def blamed(subgoals, start=HERE, end=THERE):
    """The same for one step from start to end in each episode."""
    return similarity(subgoals, start, end[:, None, None])[:, 0, 0].tolist()


@pytest.mark.parametrize("p", [1, 2])
def test_a_subgoal_is_reached_within_half_its_distance_or_failed_when_its_time_is_over(p):
    subgoals = handed(step=20, p=p)
    assert subgoals.outcome.outcome.tolist() == [OPEN, OPEN]
    assert not subgoals.observe(torch.tensor([[1.0, 0.0], [11.0, 0.0]]), 25).any()
    assert not subgoals.observe(torch.tensor([[1.9, 0.0], [12.0, 0.0]]), 29).any()
    assert subgoals.outcome.outcome.tolist() == [OPEN, REACHED]
    assert subgoals.observe(torch.tensor([[-3.0, 0.0], [10.0, 0.0]]), 30).tolist() == [True, False]
    outcome = subgoals.outcome
    assert outcome.outcome.tolist() == [UNREACHED, REACHED]
    assert outcome.planned_at.tolist() == [20, 20]
    torch.testing.assert_close(outcome.left, torch.tensor([2.1, 2.0]) / 4)  # the nearest it came
    assert not subgoals.observe(THERE, 31).any()  # each is evaluated once: it may have come there on another path
    assert subgoals.outcome.outcome.tolist() == [UNREACHED, REACHED]
    assert blamed(subgoals) == [1, 0]
    assert outcome.text(0) == "subgoal of step 20 not reached in time: 0.52 of its distance was left"
    assert outcome.text(1) == "subgoal of step 20 reached: 0.50 of its distance was left"


def test_outcomes_of_all_episodes_add_up():
    subgoals = handed(step=20)
    subgoals.observe(torch.tensor([[1.0, 0.0], [12.0, 0.0]]), 25)  # the second is reached after 5 steps
    subgoals.observe(torch.tensor([[1.0, 0.0], [10.0, 0.0]]), 30)  # the first is not reached
    subgoals.hand_down(HERE, THERE, 31, deadline=5)
    subgoals.report_reach(31, torch.tensor([16.0, 16.0]))
    subgoals.observe(HERE, 33)  # both are given up
    subgoals.select(torch.tensor([0]))
    reached, unreached, unreachable, steps, left = (total.item() for total in subgoals.tally)
    assert (reached, unreached, unreachable, steps) == (1, 1, 2, 5)
    assert left == pytest.approx(0.5 + 0.75 + 2)


def test_the_outcome_is_that_of_the_last_of_several():
    subgoals = handed()
    subgoals.hand_down(HERE, THERE + 1, 3, deadline=5)
    subgoals.hand_down(HERE, THERE + 2, 100, deadline=5)
    subgoals.observe(torch.stack([HERE[0], THERE[1]]), 50)
    assert subgoals.outcome.outcome.tolist() == [UNREACHED, REACHED]
    assert subgoals.outcome.planned_at.tolist() == [3, 100]


def test_a_subgoal_that_the_level_below_does_not_follow_is_not_decided():
    subgoals = handed()
    follows = torch.tensor([False, True])
    subgoals.hand_down(HERE, THERE, 5, deadline=5, followed=follows)  # the first episode now goes for the goal itself
    subgoals.observe(HERE, 100)
    assert subgoals.outcome.outcome.tolist() == [OPEN, UNREACHED]
    assert subgoals.tally.unreached == 2
    assert blamed(subgoals)[0] == 0 < blamed(subgoals)[1]


@pytest.mark.parametrize("p", [1, 2])
def test_a_subgoal_nearer_than_a_step_is_reached_within_half_a_step(p):
    subgoals = SubgoalMonitor(1.0, p, 1.0, 1.0, HERE)
    subgoals.hand_down(HERE, HERE + torch.tensor([0.1, 0.0]), 0, deadline=5)
    assert not subgoals.observe(HERE + torch.tensor([[0.5, 0.0], [0.7, 0.0]]), 5)[0]
    assert subgoals.outcome.outcome.tolist() == [REACHED, REACHED]


def test_a_subgoal_that_the_level_below_finds_no_path_to_has_failed_at_once():
    subgoals = handed()
    subgoals.hand_down(HERE, THERE, 3, deadline=5)
    subgoals.report_reach(3, torch.tensor([4.1, 3.9]))  # beyond and within half of the four steps
    assert subgoals.observe(HERE, 4).tolist() == [True, False]
    assert subgoals.outcome.outcome.tolist() == [UNREACHABLE, OPEN]
    assert subgoals.record.failed.tolist() == [[False, True], [False, False]]
    assert "the level below found no path" in subgoals.outcome.text(0)
    assert subgoals.outcome.text(1) == ""
    subgoals.report_reach(0, torch.tensor([4.1, 4.1]))
    subgoals.observe(torch.stack([HERE[0], THERE[1]]), 5)
    assert subgoals.outcome.outcome.tolist() == [UNREACHABLE, REACHED]  # it got there all the same


def test_the_same_path_counts_as_one_and_others_less_the_less_they_are_like_it():
    subgoals = handed()
    assert blamed(subgoals) == [0, 0]  # not evaluated yet
    subgoals.observe(torch.stack([HERE[0], THERE[1]]), 10)
    assert blamed(subgoals) == [1, 0]
    aside = torch.tensor([0.0, 3.0])
    assert blamed(subgoals, end=THERE + aside)[0] == pytest.approx(math.exp(-9 / 16))
    assert blamed(subgoals, start=HERE + aside, end=THERE + aside)[0] == pytest.approx(math.exp(-18 / 16))
    # along a plan: nothing before it is tried, one for each time it is
    path = torch.tensor([[0.0, 100.0], [0.0, 0.0], [4.0, 0.0], [0.0, 0.0], [4.0, 0.0]])
    along = similarity(subgoals, HERE, path.expand(2, 3, 5, 2))
    assert along.shape == (2, 3, 5)
    back = math.exp(-2)
    torch.testing.assert_close(along[0], torch.tensor([0, 0, 1, 1 + back, 2 + back]).expand(3, 5), atol=1e-3, rtol=0)
    assert along[1].abs().max() < 1e-6


@pytest.mark.parametrize(("p", "expected"), [(1, math.exp(-6 / 4)), (2, math.exp(-18 / 16))])
def test_the_likeness_of_paths_is_in_the_distance_of_the_level(p, expected):
    subgoals = handed(p=p)
    subgoals.observe(HERE, 10)
    assert blamed(subgoals, end=THERE + 3)[0] == pytest.approx(expected)


def test_the_similarity_has_a_gradient_where_it_is_greatest():
    subgoals = handed()
    subgoals.observe(HERE, 10)
    path = THERE[:, None, None].clone().requires_grad_()
    similarity(subgoals, HERE, path).sum().backward()
    assert path.grad is not None
    assert path.grad.isfinite().all()


def test_what_is_reached_after_all_is_forgiven():
    subgoals = handed()
    subgoals.observe(HERE, 10)
    aside = torch.tensor([[1.0, 0.0], [0.0, 3.0]])  # of the first episode half a scale away, of the second more
    subgoals.hand_down(HERE + aside, THERE + aside, 10, deadline=5)
    subgoals.observe(THERE + aside, 12)
    assert blamed(subgoals) == [0, 1]
    assert subgoals.record.start.shape[1] == 1  # what is neither open nor failed anywhere is forgotten


def test_without_a_penalty_failures_are_reported_and_forgotten():
    subgoals = handed(failure_penalty=0.0)
    assert subgoals.observe(HERE, 10).tolist() == [True, True]
    assert subgoals.outcome.outcome.tolist() == [UNREACHED, UNREACHED]
    assert blamed(subgoals) == [0, 0]
    assert subgoals.record.start.shape[1] == 0


def test_select_goes_on_with_some():
    subgoals = handed()
    subgoals.observe(torch.stack([THERE[0], HERE[1]]), 10)
    subgoals.select(torch.tensor([False, True]))
    assert subgoals.outcome.outcome.tolist() == [UNREACHED]
    assert blamed(subgoals, HERE[1:], THERE[1:]) == [1]
    assert subgoals.observe(HERE[1:], 11).tolist() == [False]


STEP = 0.05
WALL, TOP = 0.5, 0.6  # x of a wall from y = 0 up to the path round it
GOAL = torch.tensor([[0.7, 0.3]])
CONFIG = planner_config(
    graph="none",
    budget=200,
    level0={"horizon": 5, "replan": 5, "action_repeat": 5},
    level1={"horizon": 3, "replan": 5},
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


def planner(walls=False, seed=3, **changes):
    """Two levels whose latents are positions; `walls`: level 0 knows the wall."""
    levels = load_config(["levels.level1.action_encoder.dim=2"]).levels
    specs = [
        LevelSpec(levels["level0"], 1, {"state": (2,)}, 2, ""),
        LevelSpec(levels["level1"], 5, {"latent": (2,)}, 2, ""),
    ]
    below, above = (spec.build() for spec in specs)
    below.predictor, above.predictor, above.encoder = Moves(STEP, walls), Moves(5 * STEP), Same()
    hierarchy = Hierarchy([below, above], specs).eval().requires_grad_(False)
    bound = torch.ones(2)
    made = make_planner(hierarchy, CONFIG.changed(changes), (-bound, bound))
    made.models[1].actions = made.models[1].actions.bounded(-torch.ones(()), torch.ones(()))  # as far as level 0 can go
    made.start(ObservationGoal([GOAL, GOAL]), noise(seed))
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


def test_only_a_failure_penalty_leads_round_an_unknown_wall():
    plans, arrived = episode(planner(seed=2), 60)
    assert not arrived
    asked = torch.cat([plan.levels[1].subgoal for plan in plans[20:]])
    assert (asked[:, 0] > WALL).all()  # again and again, right through the wall
    assert (asked[:, 1] < TOP).all()
    assert all(plan.levels[1].penalty is None for plan in plans)
    assert plans[-1].levels[1].outcome.outcome.item() == UNREACHED  # reported, but not learned from
    plans, arrived = episode(planner(seed=14, failure_penalty=1.0), 60)
    assert arrived
    part = next(plan.levels[1] for plan in plans if plan.levels[1].penalty is not None)
    assert part.planned_at >= 15  # three times the five steps it should take
    assert 0 < part.penalty.item() <= part.cost.item()


def test_nothing_changes_before_something_failed():
    with_it, without = (episode(planner(failure_penalty=failure_penalty), 15)[0] for failure_penalty in (1.0, 0.0))
    for one, other in zip(with_it, without, strict=True):
        assert torch.equal(one.action, other.action)
        assert torch.equal(one.levels[1].cost, other.levels[1].cost)


def test_the_penalty_is_in_costs_of_staying():
    costs = {}
    for failure_penalty in (1.0, 2.0):
        made = planner(failure_penalty=failure_penalty, patience=1.0)
        state = torch.tensor([[0.4, 0.3]])
        for _ in range(6):
            plan = made.plan({"state": state})  # it does not move
        part = plan.levels[1]
        again = similarity(made.subgoal_monitors[1], state, part.predicted.unsqueeze(1))[0, 0]
        away = (part.predicted[0] - GOAL).square().sum(-1)
        again = again[(away + failure_penalty * 0.3**2 * again).argmin()]  # of the step that counts
        costs[failure_penalty] = part.penalty.item()
        assert costs[failure_penalty] == pytest.approx(failure_penalty * again.item() * 0.3**2, rel=1e-4)
        torch.testing.assert_close(part.current_cost, torch.tensor([0.3**2]))


@pytest.mark.parametrize(("level0", "outcome"), [
    ({"replan": 1}, UNREACHABLE),  # level 0 knows the wall
    ({"replan": 1, "goal_weight": 2.0}, OPEN),  # the cost of its best plan is then no distance from the subgoal
])  # fmt: skip
def test_level_0_reports_a_subgoal_that_it_cannot_reach(level0, outcome):
    made = planner(walls=True, budget=400, failure_penalty=1.0, level0=level0, level1={"replan": 20})
    plans, _ = episode(made, 21, state=(0.45, 0.3))
    assert [plan.levels[1].planned_at for plan in plans] == [0] * 20 + [20]
    if outcome == UNREACHABLE:
        assert plans[20].levels[1].outcome.outcome.item() == UNREACHABLE
    else:
        away = (torch.tensor([[0.45, 0.3]]) - plans[0].levels[1].subgoal).square().sum(-1)
        torch.testing.assert_close(plans[0].levels[0].current_cost, away + 2 * 0.25**2)
        assert plans[20].levels[1].outcome.outcome.item() != UNREACHABLE


def test_what_fails_in_one_episode_changes_no_other():
    places = torch.tensor([[0.45, 0.3], [0.3, 0.9]])  # the first is stopped by the wall, the second passes above it

    def actions(rows):
        made, state, found = planner(failure_penalty=1.0, patience=1.0), places[rows], []
        made.start(ObservationGoal([GOAL.repeat(len(rows), 1)] * 2), EpisodeNoise.of_episodes(0, rows))
        for _ in range(12):
            found.append(made.plan({"state": state}).action)
            after = state + STEP * found[-1]
            state = torch.where(blocked(state, after).unsqueeze(1), state, after)
        return torch.stack(found), made.subgoal_monitors[1].record.failed.any(1).tolist()

    together, failed = actions([0, 1])
    assert failed == [True, False]
    torch.testing.assert_close(together[:, 1:], actions([1])[0], rtol=1e-3, atol=1e-4)


def test_a_subgoal_whose_deadline_has_passed_gives_way_to_the_next_predicted_latent():
    plans, _ = episode(planner(level0={"replan": 2}, level1={"replan": 20}), 12)
    below, above = zip(*(plan.levels for plan in plans), strict=True)
    period, predicted = 5, above[0].predicted[0]
    assert all(plan.planned_at == 0 for plan in above)
    for step in range(0, 12, 2):
        torch.testing.assert_close(below[step].target[0], predicted[step // period])
        assert above[0].subgoal_at(step, period)[1] == period - step % period
    assert above[0].subgoal_at(19, period)[1] == 1  # past its last latent, the third


def test_new_episodes_know_nothing_of_what_failed():
    made = planner(failure_penalty=1.0, patience=1.0)
    first, _ = episode(made, 10, state=(0.45, 0.3))
    assert first[-1].levels[1].penalty is not None
    made.start(ObservationGoal([GOAL, GOAL]), noise(3))
    again, _ = episode(made, 10, state=(0.45, 0.3))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.action, other.action)


def test_episodes_that_go_on_keep_what_failed_in_them():
    made = planner(failure_penalty=1.0, patience=1.0)
    made.start(ObservationGoal([GOAL.repeat(2, 1)] * 2), noise())
    state = torch.tensor([[0.1, 0.9], [0.45, 0.3]])
    for _ in range(6):
        plan = made.plan({"state": state})
        state = state + torch.tensor([[STEP], [0.0]]) * plan.action  # the first moves, the second cannot
    assert made.subgoal_monitors[1].record.failed.any(1).tolist() == [False, True]
    made.select(torch.tensor([1]))
    made.step = 10
    (part,) = made.plan({"state": state[1:]}).levels[1:]
    assert part.penalty.shape == (1,)
    assert part.outcome.outcome.tolist() == [UNREACHED]
