from __future__ import annotations

import pytest
import tiny
import torch
from planning_tools import (
    CEM,
    GAUSSIAN,
    exact_hierarchy,
    flat_planner,
    hierarchy_planner,
    path_of,
    per_level,
    points,
    proposals_of,
    samples,
    start,
    walk,
)

from hiwm.config import load_config

SOLVERS = sorted({path.stem for path in (tiny.ROOT / "configs" / "solver").glob("*.yaml")} - {"categorical"})


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_plans_within_the_budget_and_arrives(exact, name):
    solver = load_config([f"solver@planner.solver={name}"]).planner.solver
    level = {"proposal": {"std": 1.0}}
    planner = flat_planner(exact, budget=400, solver=solver, warm_start=True, level0=level)
    position, goal = points(4, 1), points(4, 2)
    plans, path = path_of(start(planner, goal), position, 40)
    arrived = (path - goal).norm(dim=2).amin(0) < 0.1
    assert arrived.all() or (name == "random" and arrived.sum() >= 3)
    for plan in plans[::5]:  # of which the prediction of the plan that was found is 20
        assert pytest.approx(plan.predictor_calls, rel=0.1) == 5 * 400


def test_a_warm_start_tries_the_last_plan_shifted(exact):
    cold = start(flat_planner(exact), points(4, 2))
    asked = proposals_of(cold)
    walk(cold, points(4, 1), 6)
    assert all(proposal.guesses is None for proposal, _ in asked)

    planner = start(flat_planner(exact, warm_start=True, level0={"replan": 10}, budget=50), points(4, 2))
    asked = proposals_of(planner)
    _, state = walk(planner, points(4, 1), 10)
    planner.select(torch.tensor([1, 3]))
    walk(planner, state[[1, 3]], 1)
    (first, found), (second, _) = asked
    assert first.guesses is None
    # choices are held for five of the ten steps; the end is the proposal's mean, zero
    expected = torch.cat([found.actions[[1, 3], 2:], torch.zeros(2, 2, 2)], 1)
    torch.testing.assert_close(second.guesses, expected.unsqueeze(1))
    # new episodes know nothing of it
    start(planner, points(4, 3)).plan({"state": points(4, 1)})
    assert asked[-1][0].guesses is None


def test_each_level_shifts_by_whole_steps_of_its_own(agent):
    changes = {"graph": "none", "budget": 400, "warm_start": True}
    planner = start(hierarchy_planner(agent, GAUSSIAN, per_level(replan=[1, 3, 9]), changes), points(2, 2))
    asked = proposals_of(planner)
    walk(planner, points(2, 1), 10)
    by_level = {k: [] for k in range(3)}
    for proposal, found in asked:
        by_level[{6: 0, 2: 1, 4: 2}[proposal.mean.shape[1]]].append((proposal, found))
    assert [len(by_level[k]) for k in range(3)] == [10, 4, 2]
    for k, steps in ((0, 1), (1, 1), (2, 1)):  # level 2: nine steps of the environment are one and a half of its own
        (_, before), (after, _), *_ = by_level[k]
        assert torch.equal(after.guesses[:, 0, :-steps], before.actions[:, steps:])
        assert torch.equal(after.guesses[:, 0, -steps:], after.mean[:, -steps:])


def test_level_0_shifts_by_environment_steps_also_within_a_chunk():
    """A chunk is three primitive actions; a search chooses primitive actions, and two of them have passed."""
    level = {"horizon": 4, "action_repeat": 1, "replan": 2}
    planner = start(flat_planner(exact_chunks(3), level0=level, warm_start=True), points(2, 2))
    asked = proposals_of(planner)
    walk(planner, points(2, 1), 3)
    (_, before), (after, _) = asked
    assert after.mean.shape == (2, 12, 2)
    assert torch.equal(after.guesses[:, 0, :-2], before.actions[:, 2:])
    assert torch.equal(after.guesses[:, 0, -2:], after.mean[:, -2:])


def exact_chunks(stride):
    """One level whose actions are chunks of primitive ones, all of which move it."""
    hierarchy = exact_hierarchy(stride)
    hierarchy.levels[0].predictor.forward = lambda latent, action: latent + 0.05 * action.unflatten(-1, (-1, 2)).sum(-2)
    return hierarchy


def test_a_plan_of_chunks_is_played_one_primitive_action_after_the_other():
    planner = start(
        flat_planner(exact_chunks(3), level0={"horizon": 4, "action_repeat": 1, "replan": 12}), points(2, 2)
    )
    plans, _ = walk(planner, points(2, 1), 12)
    actions = plans[0].levels[0].actions
    assert actions.shape == (2, 4, 6)
    played = torch.stack([plan.action for plan in plans], 1)
    assert torch.equal(played, actions.reshape(2, 12, 2))
    assert len(played.flatten(0, 1).unique(dim=0)) == 24  # no two are alike


def test_a_time_limit_ends_a_search_after_its_first_round(exact):
    solver = {**CEM, "iterations": 10}
    for limit, rounds in ((None, 10), (1e-6, 1), (1e6, 10)):
        planner = start(flat_planner(exact, solver=solver, milliseconds=limit), points(4, 2))
        plan = planner.plan({"state": points(4, 1)})
        assert plan.predictor_calls == 20 * (rounds * samples(planner, 0) + 1)
