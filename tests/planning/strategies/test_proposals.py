"""Where searches begin: around the inverse model's actions or real ones, and which of them they also try."""

from __future__ import annotations

import pytest
import torch
from planning_tools import (
    CEM,
    FLAT,
    GAUSSIAN,
    HIGH,
    LOW,
    NO_STD,
    STEP,
    Identity,
    begin,
    exact_hierarchy,
    flat_planner,
    hierarchy_planner,
    per_level,
    points,
    proposals_of,
    samples,
    search,
    start,
    walk,
)

from hiwm.agent import Agent
from hiwm.heads.action_bank import ActionBank
from hiwm.heads.heads import Heads
from hiwm.planning.action_space import ActionSpace
from hiwm.planning.goals import PartGoal, distance_to
from hiwm.planning.strategies.proposals import proposal_around

# center, candidates
MIXTURES = [
    ("gaussian", "inverse"),
    ("gaussian", "retrieval"),
    ("gaussian", "inverse", "retrieval"),
    ("retrieval", "inverse"),
    ("inverse", "retrieval"),
]


def one_level(k, *names, std=None):
    """Searches of a hierarchy in which level k alone has another proposal than the Gaussian."""
    return {**GAUSSIAN, f"level{k}": search(*names, std=std)}


def bank_of(start, actions, low=LOW, high=HIGH):
    """A bank in which every sequence has its whole length."""
    steps = torch.full((len(actions),), actions.shape[1])
    return Heads(action_banks=[ActionBank(low=low, high=high, start=start, actions=actions, steps=steps)])


@pytest.mark.parametrize("k", range(3))
def test_retrieval_finds_better_plans_than_chance_within_its_bounds(agent, k):
    planner = start(hierarchy_planner(agent, one_level(k, "retrieval"), graph="none", budget=400), points(8, 2))
    plan = planner.plan({"state": points(8, 1)})
    plan, bank, level = plan.levels[k], agent.heads.action_banks[k], agent.hierarchy.levels[k]
    low, high = (LOW, HIGH) if k == 0 else (bank.low, bank.high)
    rng = torch.Generator().manual_seed(0)
    drawn = low + (high - low) * torch.rand(plan.actions.shape, generator=rng)
    latent = agent.hierarchy.encode({"state": points(8, 1)})[k]
    predicted = level.rollout(latent, drawn)
    if plan.target_level > k:
        predicted = agent.hierarchy.levels[k + 1].encode({"latent": predicted})
    chance = distance_to(plan.target, predicted).amin(1)
    assert (plan.cost <= chance).float().mean() > 0.8
    assert plan.cost.mean() < 0.8 * chance.mean()
    if k == 0:
        assert (plan.actions >= low - 1e-6).all()
        assert (plan.actions <= high + 1e-6).all()
    else:  # wide enough for the sequence it starts from
        assert (plan.actions >= bank.actions.amin((0, 1)).minimum(low) - 1e-6).all()
        assert (plan.actions <= bank.actions.amax((0, 1)).maximum(high) + 1e-6).all()


@pytest.mark.parametrize("k", range(3))
def test_retrieval_without_a_spread_plans_a_real_sequence(agent, k):
    # one round: a second would begin at the mean of equal candidates, on some processors a rounding error away
    changes = {"graph": "none", "budget": 400, "solver": {**CEM, "iterations": 1}}
    planner = start(hierarchy_planner(agent, one_level(k, "retrieval", std=NO_STD), changes), points(5, 2))
    actions = planner.plan({"state": points(5, 1)}).levels[k].actions
    bank = agent.heads.action_banks[k]
    real = planner.models[k].executable(bank.actions[bank.steps >= actions.shape[1], : actions.shape[1]])
    assert (actions.unsqueeze(1) == real).all((2, 3)).any(1).all()


@pytest.mark.parametrize("std", [NO_STD, 0.3])
def test_retrieval_takes_the_best_of_the_nearest(exact, std):
    """Six sequences of two actions; those that start farthest, beyond the four that are tried, would lead nearest."""
    first = torch.tensor([[-1.0, 0], [0, -1], [0.5, 0.2], [-1, -1], [1, 0], [1, 0]])
    starts = torch.tensor([[0.0, 0], [0, 0.1], [0.1, 0], [0.1, 0.1], [5, 5], [6, 6]])
    heads = bank_of(starts, first.unsqueeze(1).repeat(1, 2, 1))
    level = {**search("retrieval", std=std), "horizon": 2, "replan": 1, "action_repeat": 1}
    planner = flat_planner(exact, heads=heads, level0=level, budget=32)
    assert samples(planner, 0) == 4
    plan = start(planner, torch.tensor([[1.0, 0.0]])).plan({"state": torch.zeros(1, 2)})
    assert plan.predictor_calls == 4 * 4 * 2 + 2
    (plan,) = plan.levels
    cost = (1 - 2 * STEP * 0.5) ** 2 + (2 * STEP * 0.2) ** 2
    if std == NO_STD:
        assert torch.equal(plan.actions[0], heads.action_banks[0].actions[2])
        assert plan.cost.item() == pytest.approx(cost)
    else:
        assert plan.cost.item() < cost


def first(latent):
    return latent[..., :1]


def test_retrieval_compares_what_the_action_encoder_sees(agent, monkeypatch):
    monkeypatch.setattr(agent.hierarchy.levels[1].encoder, "for_actions", first)
    planner = hierarchy_planner(agent, one_level(1, "gaussian", "retrieval"), graph="none", budget=400)
    asked = proposals_of(start(planner, points(5, 2)))
    planner.plan({"state": points(5, 1)})
    proposed = next(proposal for proposal, _ in asked if proposal.mean.shape[1] == 2)
    latent, bank = agent.hierarchy.encode({"state": points(5, 1)})[1], agent.heads.action_banks[1]
    expected = bank.nearest(latent, proposed.guesses.shape[1], 2, first)
    torch.testing.assert_close(proposed.guesses, expected)
    assert not torch.equal(expected, bank.nearest(latent, proposed.guesses.shape[1], 2))


@pytest.mark.parametrize("names", MIXTURES)
def test_a_search_also_tries_the_inverse_models_actions_and_real_ones(agent, names, monkeypatch):
    """Level 1's search; its guesses take the place of random candidates, so it costs what it would cost without them."""
    monkeypatch.setattr("hiwm.planning.model.MACRO_BOUND", 0.1)
    calls, (center, *candidates) = [], names
    for own in ((center,), names):
        std = None if center == "gaussian" else 0.3
        planner = hierarchy_planner(agent, one_level(1, *own, std=std), graph="none", budget=400)
        asked = proposals_of(start(planner, points(5, 2)))
        plan = planner.plan({"state": points(5, 1)})
        calls.append(plan.predictor_calls)
    proposed = next(proposal for proposal, _ in asked if proposal.mean.shape[1] == 2)
    assert calls[1] == calls[0] + 2 * ("inverse" in candidates)
    latent, expected = agent.hierarchy.encode({"state": points(5, 1)})[1], []
    space = planner.strategies[1].space(planner.models[1])
    if "retrieval" in candidates:
        number = -(-samples(planner, 1) // 2)
        expected.append(agent.heads.action_banks[1].nearest(latent, number, 2))
    if "inverse" in candidates:
        actions = []
        for left in (2.0, 1.0):
            action = agent.hierarchy.levels[2].infer_action(latent, plan.levels[2].subgoal, torch.full((5,), left))
            actions.append(space.clamp(action))
            latent = agent.hierarchy.levels[1].predict(latent, actions[-1])
        expected.insert(0, torch.stack(actions, 1).unsqueeze(1))
    expected = torch.cat(expected, 1)
    torch.testing.assert_close(proposed.guesses, expected)
    # within bounds that hold them, and no wider than that
    assert (proposed.low <= expected.amin(1)).all()
    assert (proposed.high >= expected.amax(1)).all()
    if center == "gaussian":
        assert space.high == pytest.approx(0.1)
        assert torch.equal(proposed.low, torch.minimum(space.low, expected.amin(1)))
        assert torch.equal(proposed.high, torch.maximum(space.high, expected.amax(1)))


def test_guesses_follow_the_last_plan(agent):
    changes = {"graph": "none", "budget": 400, "warm_start": True}
    planner = hierarchy_planner(agent, one_level(1, "gaussian", "inverse"), per_level(replan=[1, 1, 1]), changes)
    asked = proposals_of(start(planner, points(2, 2)))
    walk(planner, points(2, 1), 2)
    first, second = (proposal for proposal, _ in asked if proposal.mean.shape[1] == 2)
    assert first.guesses.shape[1] == 1
    assert second.guesses.shape[1] == 2
    assert torch.equal(second.guesses[:, 0], next(found for p, found in asked if p is first).actions)


def test_a_real_guess_is_taken_where_it_is_best(exact):
    """Nothing else that is tried moves at all."""
    actions = torch.tensor([[-1.0, 0], [1, 0], [0, 1], [0.5, 0]]).unsqueeze(1).repeat(1, 2, 1)
    heads = bank_of(torch.zeros(4, 2), actions)
    level = {**search("gaussian", "retrieval", std=NO_STD), "horizon": 2, "replan": 1, "action_repeat": 1}
    planner = flat_planner(exact, heads=heads, level0=level, budget=48)
    assert samples(planner, 0) == 8
    plan = start(planner, torch.tensor([[1.0, 0.0]])).plan({"state": torch.zeros(1, 2)})
    assert torch.equal(plan.levels[0].actions[0], actions[1])
    assert plan.predictor_calls == 3 * 8 * 2 + 2


@pytest.mark.parametrize("names", [names for names in MIXTURES if "retrieval" in names])
def test_a_proposal_needs_what_its_parts_need(agent, names):
    bare = Agent(agent.hierarchy, Heads(), agent.graphs, agent.config, agent.spec)
    message = "planner.level1.proposal asks for retrieval, but no real actions of level 1 are saved"
    with pytest.raises(ValueError, match=message):
        bare.with_planner(**one_level(1, *names))
    bare.with_planner(**one_level(1, "gaussian", "inverse"))
    if "inverse" in names:
        with pytest.raises(ValueError, match=r"planner.level2.proposal.*inverse.*; expected a search without"):
            hierarchy_planner(agent, one_level(2, *names), graph="none", budget=800)
    else:
        with pytest.raises(ValueError, match=r"planner.level2.horizon is 14; expected at most 13"):
            hierarchy_planner(agent, one_level(2, *names), graph="none", budget=2000, level2={"horizon": 14})
        planner = start(hierarchy_planner(agent, one_level(2, *names), graph="none", budget=800), points(2))
        assert planner.plan({"state": points(2, 1)}).levels[2].actions.shape == (2, 4, 4)
    if "inverse" in names:
        heads = Heads(action_banks=agent.heads.action_banks)
        flat = flat_planner(agent.hierarchy.truncate(1), heads=heads, level0={**search(*names), "horizon": 10})
        with pytest.raises(
            ValueError, match=r"the goal is a PartGoal; expected a whole observation, because planner.level0 plans"
        ):
            begin(flat, PartGoal(torch.zeros(1, 2), [Identity()]))


def test_held_actions_are_the_means_of_real_ones(exact):
    rng = torch.Generator().manual_seed(0)
    actions = torch.rand(7, 20, 2, generator=rng)
    heads = bank_of(torch.rand(7, 2, generator=rng), actions)
    planner = start(flat_planner(exact, heads=heads, level0=search("retrieval", std=NO_STD)), points(3, 2))
    (plan,) = planner.plan({"state": points(3, 1)}).levels
    held = actions.unflatten(1, (4, 5)).mean(2).repeat_interleave(5, 1)
    assert torch.isclose(plan.actions.unsqueeze(1), held).all((2, 3)).any(1).all()


def test_retrieval_costs_what_the_gaussian_does(agent):
    calls = []
    for changes in (GAUSSIAN, {f"level{k}": search("retrieval") for k in range(3)}):
        planner = start(hierarchy_planner(agent, changes, graph="none", budget=800), points(3, 2))
        calls.append(sum(plan.predictor_calls for plan in walk(planner, points(3, 1), 6)[0]))
    assert calls[1] == pytest.approx(calls[0], rel=0.05)


def test_retrieval_without_a_bank_is_refused(agent):
    agent = Agent(agent.hierarchy, Heads(), agent.graphs, agent.config, agent.spec)  # no proposal needs any
    message = r"planner.level1.proposal asks for retrieval, but no real actions of level 1 are saved; expected another"
    with pytest.raises(ValueError, match=message):
        agent.with_planner(**one_level(1, "retrieval"))
    # a top level that hands landmarks down proposes nothing
    agent.with_planner(**one_level(2, "retrieval"), graph="follow")


def test_a_horizon_beyond_the_bank_is_refused(agent):
    longest = agent.heads.action_banks[2].longest
    assert longest == 13  # 80 steps in periods of 6
    changes = {**one_level(2, "retrieval"), "graph": "none", "budget": 2000}
    hierarchy_planner(agent, changes, level2={"horizon": longest})
    with pytest.raises(ValueError, match=r"planner.level2.horizon is 14; expected at most 13, .* action_bank.length"):
        hierarchy_planner(agent, changes, level2={"horizon": longest + 1})


def test_a_single_level_of_chunks_proposes_real_ones():
    """Level 0 of stride 2: its actions are chunks of two primitive ones."""
    hierarchy = exact_hierarchy(stride=2)
    hierarchy.levels[0].predictor.forward = lambda latent, action: latent + action[..., :2] + action[..., 2:]
    rng = torch.Generator().manual_seed(0)
    chunks = torch.rand(9, 4, 4, generator=rng) - 0.5
    heads = bank_of(torch.rand(9, 2, generator=rng), chunks, chunks.amin((0, 1)), chunks.amax((0, 1)))
    level = {**search("retrieval", std=NO_STD), "horizon": 4, "replan": 4, "action_repeat": 1}
    planner = flat_planner(hierarchy, heads=heads, level0=level)
    plan = start(planner, points(3, 2)).plan({"state": points(3, 1)})
    actions = plan.levels[0].actions
    assert actions.shape == (3, 4, 4)
    assert torch.equal(plan.action, actions[:, 0, :2])
    assert (actions.unsqueeze(1) == chunks).all((2, 3)).any(1).all()
    for asking in ({"strategy": "follow_inverse"}, search("inverse")):
        with pytest.raises(ValueError, match=r"planner.level0.*inverse; expected a search without .* a single level"):
            flat_planner(hierarchy, heads=heads, level0={**level, **asking})


def test_half_of_the_probability_of_a_discrete_action_goes_to_all_options_alike():
    space = ActionSpace(4, 4, torch.zeros(4), torch.ones(4), discrete=True)
    proposal = proposal_around(space, torch.tensor([[[1.0, 0, 0, 0]]]), FLAT.level(0).proposal.std)
    assert proposal.mean.tolist() == [[[0.625, 0.125, 0.125, 0.125]]]
