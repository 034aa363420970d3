"""Counts of forward passes: what a plan says equals what the networks did."""

from __future__ import annotations

import pytest
import torch
from planning_tools import (
    GAUSSIAN,
    HIGH,
    LOW,
    Counting,
    hierarchy_planner,
    per_level,
    points,
    samples,
    search,
    start,
    walk,
)

from hiwm.heads.heads import Heads
from hiwm.levels.parts import Predictor
from hiwm.planning.assemble import make_planner
from hiwm.planning.counter import CountedPredictor, ForwardCounter

FOLLOW = per_level(strategy=["follow_inverse"] * 3)


def spied(agent):
    """Counters of the predictors and of all other networks of an agent's hierarchy, which replace them."""
    predictors, others = [], []
    for level in agent.hierarchy.levels:
        level.predictor = Counting(level.predictor)
        level.encoder, level.inverse = Counting(level.encoder), Counting(level.inverse)
        predictors.append(level.predictor)
        others += [level.encoder, level.inverse]
    return predictors, others


@pytest.mark.parametrize(
    "changes",
    [
        {},
        GAUSSIAN,
        {"graph": "none"},
        {"graph": "search"},
        {"graph": "search", "level0": {"strategy": "follow_inverse"}},
        {"graph": "none", "level0": search(), "level1": {"strategy": "follow_inverse"}, "budget": 400},
        {**per_level(replan=[6, 6, 6]), "budget": 60},
        {"graph": "none", "level0": search("retrieval"), "level1": search(), "level2": search("retrieval"), "budget": 400},
        {
            "graph": "none",
            "level0": search("inverse", "retrieval"),
            "level1": search("gaussian", "inverse", "retrieval"),
            "level2": search("gaussian", "retrieval"),
            "budget": 400,
        },
    ],
)  # fmt: skip
def test_predictor_calls_stay_within_the_budget(agent, changes):
    counters, others = spied(agent)
    planner = hierarchy_planner(agent, changes)
    batch, steps = 3, 12
    planner = start(planner, points(batch, 2))
    for counter in (*counters, *others):  # making a planner measures the length of a step
        counter.count = 0
    plans, _ = walk(planner, points(batch, 1), steps)
    budget = planner.config.budget
    reported = sum(plan.predictor_calls for plan in plans) / steps
    made = sum(counter.count for counter in counters) / batch / steps
    assert reported == pytest.approx(budget, rel=0.15)
    assert made == pytest.approx(budget, rel=0.15)
    assert made == pytest.approx(reported, rel=1e-9)
    assert sum(plan.other_calls for plan in plans) == sum(counter.count for counter in others) / batch


def test_following_the_inverse_models_costs_their_horizon(agent):
    planner = hierarchy_planner(agent, FOLLOW, budget=1)
    assert [strategy.searches for strategy in planner.strategies] == [False] * 3
    plans, _ = walk(start(planner, points(2, 2)), points(2, 1), 6)
    # the top level is handed its landmark; below, one candidate each
    assert [plan.predictor_calls for plan in plans] == [8, 0, 0, 8, 0, 0]


def test_passes_with_a_gradient_count_three_times(agent):
    """The backward pass through predictors and encoders takes about two forward passes."""
    solver = {"_target_": "hiwm.planning.solvers.gradient.Gradient", "iterations": 3}
    planner = hierarchy_planner(agent, GAUSSIAN, graph="none", budget=400, solver=solver)
    plan = start(planner, points(2, 2)).plan({"state": points(2, 1)})
    rollouts = [3 * 3 * samples(planner, k) + 1 for k in range(3)]
    steps = [planner.models[k].horizon * rollouts[k] for k in range(3)]
    assert plan.predictor_calls == sum(steps)
    # encoded: the present latents and, where a level above asked, the latents of the search and of what it found
    assert plan.other_calls == 3 + sum(steps[k] for k in (0, 1))
    assert all(level.actions is not None and not level.actions.requires_grad for level in plan.levels)


class Prior(Counting):
    """An action prior of two passes that answers with the noise."""

    passes = 2

    def forward(self, latent, noise):
        self.count += self.passes * latent.shape[:-1].numel()
        return noise


def test_an_action_prior_counts_each_of_its_passes(agent):
    _, others = spied(agent)
    prior = Prior(None)
    heads = Heads(action_banks=agent.heads.action_banks, action_priors=[None, prior, None])
    config = agent.config.changed({"graph": "none", "budget": 400, "level1": search("flow", std=1.0)})
    planner = start(make_planner(agent.hierarchy, config, (LOW, HIGH), heads, agent.graphs), points(2, 2))
    before = sum(counter.count for counter in others)
    plan = planner.plan({"state": points(2, 1)})
    assert prior.count == 2 * 2 * 2 * (
        3 * samples(planner, 1) + 1
    )  # passes, steps, episodes, candidates and the solution
    assert 2 * plan.other_calls == sum(counter.count for counter in others) - before + prior.count


def test_a_wrapped_network_counts_rows_times_passes():
    counter = ForwardCounter()
    network = counter.wrap(lambda first, *others: first, passes=2)
    x = torch.zeros(3, 4, 5)
    assert network(x, torch.zeros(1)) is x
    assert (counter.predictor, counter.other) == (0, 24)
    network({"image": torch.zeros(7, 3, 8, 8)})
    assert counter.other == 24 + 14
    counter.reset()
    network(torch.zeros(5), torch.zeros(1, requires_grad=True))  # one vector, and a gradient
    assert (counter.predictor, counter.other) == (0, 6)


class Remembering(Predictor):
    """Two passes a prediction."""

    passes, context = 2, 3

    def forward(self, latent, action):
        return latent + action


def test_a_predictor_that_remembers_counts_what_it_observes_again():
    counter = ForwardCounter()
    predictor = CountedPredictor(Remembering(2), counter)
    state = predictor.remember(torch.zeros(4, 3, 2), torch.zeros(4, 2, 2))
    assert counter.predictor == 2 * 4 * 2
    predictor.step_spread(state, torch.zeros(4, 2))
    assert counter.predictor == 2 * 4 * 3
    predictor.step_spread(state, torch.zeros(4, 2, requires_grad=True))
    assert (counter.predictor, counter.other) == (2 * 4 * 6, 0)
