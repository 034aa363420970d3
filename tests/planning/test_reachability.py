"""Plans are chosen by where the level below gets when it follows them."""

from __future__ import annotations

import pytest
import torch
from planning_tools import GAUSSIAN, hierarchy_planner, points, start

from hiwm.config import load_config
from hiwm.planning.explain.alternatives import CandidateLog
from hiwm.planning.reachability import ReachabilityCheck
from hiwm.planning.rollout import Rollout
from hiwm.planning.solvers.solver import Scores
from hiwm.planning.subgoals import SubgoalMonitor
from hiwm.planning.validate import check_config

CHECKED = {"graph": "none", "level1": {"check_subgoals": 6}}


def plan(agent, *changes, number=5):
    planner = start(hierarchy_planner(agent, GAUSSIAN, {"graph": "none"}, *changes), points(number, 2))
    return planner.plan({"state": points(number, 1)})


@pytest.fixture
def seen(monkeypatch):
    """What the check of a plan is asked: the check, the problem, the plans (B, N, H, D), and latents of the level below."""
    asked, followed = [], ReachabilityCheck.followed

    def spy(check, problem, plans, latent_below):
        asked.append((check, problem, plans, latent_below))
        return followed(check, problem, plans, latent_below)

    monkeypatch.setattr(ReachabilityCheck, "followed", spy)
    return asked


def test_the_level_below_follows_one_latent_after_another(agent, seen):
    plan(agent, CHECKED)
    ((check, problem, plans, latent_below),) = seen
    reached = check.followed(problem, plans, latent_below)
    level, below = agent.hierarchy.levels[1], agent.hierarchy.levels[0]
    for row, number in ((0, 0), (3, 4)):
        latent = latent_below[row : row + 1]
        for h in range(plans.shape[2]):
            for left in range(level.stride, 0, -1):
                action = level.infer_action(latent, plans[row : row + 1, number, h], torch.tensor([float(left)]))
                latent = below.predict(latent, check.below.actions.clamp(action))
            expected = level.encode({"latent": latent})
            torch.testing.assert_close(reached[row, number, h], expected[0])


def stuck(check, problem, plans, latent_below):
    """The level below cannot follow the first plan, the search's best: it stays where it is."""
    here = problem.latent[:, None, None].expand(-1, 1, plans.shape[2], -1)
    return torch.cat([here, plans[:, 1:]], 1)


def test_a_plan_that_the_level_below_cannot_follow_is_not_chosen(agent, seen, monkeypatch):
    monkeypatch.setattr(ReachabilityCheck, "followed", lambda *given: seen.append(given) or stuck(*given))
    found = plan(agent, CHECKED).levels[1]
    best = seen[0][2][:, 0, 0]
    assert ((found.subgoal - best).abs().amax(1) > 1e-3).all()
    assert (found.alternatives.cost < found.cost.unsqueeze(1)).any(1).all()
    assert "but the strategy or the check of subgoals chose another" in found.explain(0)


def test_a_failed_subgoal_keeps_its_penalty_where_the_level_below_ends_elsewhere(agent, monkeypatch):
    """The penalty is that of the subgoal that would be handed down, not of where the level below gets."""
    asked = []

    def recorded(monitor, current_cost):
        def of(rollout):
            asked.append(rollout.latents)
            return torch.zeros_like(rollout.latents[..., 0])

        return of

    monkeypatch.setattr(SubgoalMonitor, "penalty", recorded)
    monkeypatch.setattr(ReachabilityCheck, "followed", lambda check, problem, plans, below: plans + 7)
    plan(agent, CHECKED)
    assert max(latents.abs().max() for latents in asked) < 6


def test_a_plan_that_the_level_below_follows_stays(agent, monkeypatch):
    monkeypatch.setattr(ReachabilityCheck, "followed", lambda check, problem, plans, below: plans)
    found = plan(agent, CHECKED).levels[1]
    assert (found.cost.unsqueeze(1) <= found.alternatives.cost + 1e-5).all()


def test_the_check_keeps_the_budget(agent):
    counted = plan(agent, CHECKED, {"budget": 300.0, "level2": {"strategy": "hand_down"}})
    replan = hierarchy_planner(agent, GAUSSIAN).config.replan(0)
    assert counted.predictor_calls <= 1.05 * 300 * replan
    changes = {"budget": 300.0}
    planner = hierarchy_planner(agent, GAUSSIAN, CHECKED, changes)
    without = hierarchy_planner(agent, GAUSSIAN, {"graph": "none"}, changes)
    check = planner.reachability[1]
    assert without.reachability == {}
    horizon, stride = planner.models[1].horizon, agent.hierarchy.levels[1].stride
    assert check.calls == 6 * horizon * (1 + stride)
    assert [a - b for a, b in zip(without.budgets, planner.budgets, strict=True)] == [0, check.calls, 0]
    with pytest.raises(
        ValueError, match=r"planner.budget gives level 1 -?\d+ candidates .* or lower .*planner.level1.check_subgoals"
    ):
        hierarchy_planner(agent, GAUSSIAN, CHECKED, {"level1": {"check_subgoals": 1000}})


def test_where_there_are_fewer_distinct_plans_the_others_are_none(agent, monkeypatch):
    """What fills up the missing plans is not chosen, however near the level below seems to get by it."""
    log = CandidateLog()
    latents = torch.tensor([[[[1.0]], [[1.1]], [[3.0]]]])
    log.add(
        Rollout(torch.zeros(1, 1), torch.arange(3.0).view(1, 3, 1, 1), latents), Scores(torch.arange(3.0)[None]), None
    )
    others = log.distinct(torch.zeros(1, 1), torch.tensor([[1.0]]), 2)
    assert others.found.tolist() == [[True, False]]
    assert others.actions[0, 0].tolist() == [[2.0]]

    def fillers_arrive(check, problem, plans, latent_below):
        found = problem.evaluate.log.distinct(problem.latent, plans[:, 0, 0], check.number - 1).found
        assert not found.all()
        goal = problem.target.latent[:, None, None].expand_as(plans[:, 1:])
        return torch.cat([plans[:, :1], torch.where(found[:, :, None, None], plans[:, 1:] + 9, goal)], 1)

    monkeypatch.setattr(ReachabilityCheck, "followed", fillers_arrive)
    changes = {"level1": {"check_subgoals": 60}, "level2": {"strategy": "hand_down"}, "budget": 30_000}
    found = plan(agent, CHECKED, changes).levels[1]
    assert (found.cost.unsqueeze(1) <= found.alternatives.cost + 1e-5).all()


def test_one_plan_leaves_nothing_to_choose(agent):
    with pytest.raises(ValueError, match=r"planner.level1.check_subgoals is 1; expected 0, or at least 2 plans"):
        hierarchy_planner(agent, GAUSSIAN, CHECKED, {"level1": {"check_subgoals": 1}})


def test_plans_are_checked_alone_as_in_a_batch(agent):
    together = plan(agent, CHECKED).levels[1].subgoal
    planner = start(hierarchy_planner(agent, GAUSSIAN, CHECKED), points(5, 2)[:1])
    alone = planner.plan({"state": points(5, 1)[:1]}).levels[1].subgoal
    torch.testing.assert_close(alone, together[:1])


@pytest.mark.parametrize("experiment", ["rooms-unseen", "fourroom-metric", "pointmaze-metric", "sixteenroom"])
def test_experiments_with_a_metric_level_may_check_subgoals(experiment):
    config = load_config([f"experiment={experiment}", "planner.level1.check_subgoals=16"])
    for baseline in config.evaluation.baselines.values():
        changes = {key: value for key, value in baseline.items() if key.startswith("level")}
        check_config(config.planner.changed(changes), 2)


def test_a_level_without_an_inverse_model_cannot_be_followed(agent, monkeypatch):
    monkeypatch.setattr(agent.hierarchy.levels[1], "inverse", None)
    with pytest.raises(ValueError, match=r"planner.level1.check_subgoals is 6; expected 0, because level 1 has no inv"):
        hierarchy_planner(agent, GAUSSIAN, CHECKED)
