"""A strategy from outside hiwm."""

from __future__ import annotations

import math

import pytest
import torch
from planning_tools import GAUSSIAN, Identity, begin, flat_planner, hierarchy_planner, per_level, points, start, walk

from hiwm.planning.goals import BoxRegion, KeepOut, ObservationGoal, PartGoal
from hiwm.planning.solvers.solver import take
from hiwm.planning.strategies.strategy import Decision, Strategy

TRUSTED = ["test_strategy"]


class Compass(Strategy):
    """Tries constant actions in some directions, and keeps to the best.

    Attributes:
        checked: the budget it was given.
        problems, firsts: what it was asked, and the first latents of the candidates.
        events: calls of start and select.
    """

    def __init__(self, *, directions=16, least_calls=0):
        self.directions, self.least_calls = directions, least_calls
        self.problems, self.firsts, self.events, self.scores = [], [], [], []

    def check(self, model, calls):
        self.checked = calls
        if calls < self.least_calls:
            raise ValueError(
                f"planner.level{model.k}.strategy gets {calls} predictor calls; expected {self.least_calls}"
            )

    def start(self):
        self.events.append("start")

    def select(self, rows):
        self.events.append(rows.tolist())

    def plan(self, problem):
        self.problems.append(problem)
        model, dim = problem.model, problem.model.actions.dim
        angle = torch.arange(self.directions) * 2 * math.pi / self.directions
        actions = torch.zeros(self.directions, dim)
        actions[:, 0], actions[:, 1] = angle.cos(), angle.sin()
        candidates = actions[None, :, None].expand(len(problem.latent), -1, model.horizon, -1)
        rollout = problem.rollout(candidates)
        scores = problem.evaluate(rollout)
        self.firsts.append(rollout.latents[:, :, 0])
        self.scores.append(scores)
        chosen = take(candidates, scores.without_nan().order(1))
        return Decision.of(model, problem.rollout(chosen))


class Tree(Strategy):
    """Extends two candidates three times each."""

    def plan(self, problem):
        model = problem.model
        before = model.predictor.counter.predictor
        actions = model.actions.clamp(problem.noise.normal((len(problem.latent), 8, model.actions.dim)))
        two = problem.extend(problem.root(), actions[:, :2])
        six = problem.extend(two, actions[:, 2:])
        assert model.predictor.counter.predictor - before == 8 * len(problem.latent)
        found = six.take(torch.tensor([[4, 1]]).expand(len(problem.latent), -1))
        again = problem.rollout(found.actions)
        torch.testing.assert_close(found.actions[:, :, 0], actions[:, [1, 0]])
        torch.testing.assert_close(found.actions[:, :, 1], actions[:, [6, 3]])
        torch.testing.assert_close(found.latents, again.latents)
        torch.testing.assert_close(problem.extend(found, actions[:, :2]).latents[:, :, :2], again.latents)
        return Decision.of(model, found.take(torch.zeros(len(problem.latent), 1).long()))


def test_a_tree_search_predicts_every_step_once(exact):
    tree = {"strategy": {"_target_": "test_strategy.Tree"}, "replan": 2}
    plan = start(flat_planner(exact, level0=tree, allow=TRUSTED), points(3)).plan({"state": points(3, 1)})
    assert plan.levels[0].actions.shape[:2] == (3, 2)


def compass(**arguments):
    return {"strategy": {"_target_": "test_strategy.Compass", **arguments}}


def test_its_plans_are_carried_out(exact):
    goal = torch.tensor([[0.8, 0.5], [0.5, 0.8]])
    planner = start(flat_planner(exact, level0=compass(), allow=TRUSTED), goal)
    plans, state = walk(planner, torch.tensor([[0.2, 0.5], [0.5, 0.2]]), 10)
    assert (state - goal).norm(dim=1).max() < 0.11
    (plan,) = plans[0].levels
    assert torch.equal(plans[0].action, plan.actions[:, 0])
    torch.testing.assert_close(plan.cost, (plan.predicted - goal[:, None]).square().sum(-1).amin(1))
    (compasses,) = planner.strategies
    assert [problem.step for problem in compasses.problems] == [0, 5]
    assert all(problem.noise is planner.noise for problem in compasses.problems)
    # all predictions are counted: the candidates' and that of the plan
    assert plans[0].predictor_calls == 20 * (16 + 1)


def test_constraints_reach_it(exact):
    """The straight path leads through a box."""
    goal = ObservationGoal([torch.tensor([[0.8, 0.5]])])
    box = BoxRegion(torch.tensor([[0.4, 0.45]]), torch.tensor([[0.6, 0.55]]), [Identity()])
    planner = flat_planner(exact, level0=compass(), allow=TRUSTED)
    entered = []
    for wanted in (goal, KeepOut(goal, box)):
        plan = begin(planner, wanted).plan({"state": torch.tensor([[0.2, 0.5]])}).levels[0]
        entered.append((box.depth(0, plan.predicted) > 0).any().item())
    assert entered == [True, False]
    assert plan.violation.shape == (1, 1)
    assert plan.violation.item() <= 0
    free, kept_out = planner.strategies[0].scores
    assert free.violation is None
    assert kept_out.violation.shape == (1, 16, 1)
    assert (kept_out.violation[0, :, 0] > 0).any()


def test_the_candidates_it_evaluates_become_the_alternatives_of_the_plan(agent):
    planner = hierarchy_planner(
        agent, GAUSSIAN, {"level1": compass(), "level0": compass()}, graph="none", allow=TRUSTED
    )
    plan = start(planner, points(3)).plan({"state": points(3, 1)})
    (firsts,) = planner.strategies[1].firsts
    level = plan.levels[1]
    real = level.alternatives.cost.isfinite()
    assert real.any()
    among = (level.alternatives.subgoal.unsqueeze(2) == firsts.unsqueeze(1)).all(-1).any(-1)
    assert among.all()
    chosen = (level.alternatives.subgoal == level.subgoal.unsqueeze(1)).all(-1)
    assert not (chosen & real).any()
    assert (level.alternatives.cost >= level.cost.unsqueeze(1) - 1e-5)[real].all()
    assert plan.levels[0].alternatives is None  # level 0 hands nothing down
    # the level below plans towards its subgoal
    assert torch.equal(plan.levels[0].target, level.subgoal)


def test_its_budget_is_its_share(agent):
    changes = {"level1": compass()}
    planner = hierarchy_planner(
        agent, GAUSSIAN, per_level(replan=[1, 3, 9]), changes, graph="none", budget=600, allow=TRUSTED
    )
    start(planner, points(2)).plan({"state": points(2, 1)})
    own = planner.strategies[1]
    assert own.checked == own.problems[0].budget == planner.budgets[1] == 600
    with pytest.raises(ValueError, match=r"planner.level1.strategy gets 120.0 predictor calls; expected 121"):
        hierarchy_planner(agent, GAUSSIAN, {"level1": compass(least_calls=121)}, graph="none", allow=TRUSTED)


def test_a_constraint_holds_it_to_the_steps_until_the_next_plan(agent):
    changes = {f"level{k}": compass() for k in range(3)}
    planner = hierarchy_planner(agent, changes, per_level(replan=[6, 18, 12]), graph="none", allow=TRUSTED)
    start(planner, points(2)).plan({"state": points(2, 1)})
    committed = [strategy.problems[0].evaluate.committed for strategy in planner.strategies]
    assert committed == [6, 2, 2]  # horizons 6, 2, 4 of 1, 3, 6 environment steps; level 1 plans no more than 2


def test_it_hears_of_new_episodes_and_of_those_that_continue(exact):
    planner = start(flat_planner(exact, level0=compass(), allow=TRUSTED), points(3))
    planner.plan({"state": points(3, 1)})
    planner.select(torch.tensor([2, 0]))
    start(planner, points(3))
    assert planner.strategies[0].events == ["start", [2, 0], "start"]


class Straight(Strategy):
    """Evaluates nothing, and asks for a goal that is a whole observation."""

    searches, needs_latent = False, True

    def plan(self, problem):
        left = problem.target.latent - problem.latent
        actions = left[:, None, None].expand(-1, -1, problem.model.horizon, -1)
        return Decision.of(problem.model, problem.rollout(actions))


def test_one_that_evaluates_nothing_leaves_the_budget_to_others(agent):
    straight = {"strategy": {"_target_": "test_strategy.Straight"}}
    planner = hierarchy_planner(agent, GAUSSIAN, {"level0": straight}, graph="none", budget=600, allow=TRUSTED)
    assert planner.budgets[1:] == [300 * 3, 300 * 6]


def test_one_that_needs_a_latent_needs_a_goal_that_is_a_whole_observation(exact):
    straight = {"strategy": {"_target_": "test_strategy.Straight"}}
    planner = flat_planner(exact, level0=straight, allow=TRUSTED)
    with pytest.raises(
        ValueError, match=r"the goal is a PartGoal; expected a whole observation, because planner.level0 plans"
    ):
        begin(planner, PartGoal(points(2), [Identity()]))
    plan = start(planner, points(2)).plan({"state": points(2, 1)}).levels[0]
    torch.testing.assert_close(plan.actions[:, 0], points(2) - points(2, 1))
    assert plan.cost.shape == (2,)


def test_what_is_not_trusted_is_refused(exact):
    with pytest.raises(ValueError, match=r"'test_strategy.Compass' is not trusted"):
        flat_planner(exact, level0=compass())
