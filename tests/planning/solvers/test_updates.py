"""How solvers draw candidates, and move towards good ones."""

from __future__ import annotations

import math

import pytest
import torch
from planning_tools import noise
from solver_tools import C, F, bowl, gaussian, randn, spied

from hiwm.planning.solvers.categorical import CategoricalCEM
from hiwm.planning.solvers.gradient import Gradient
from hiwm.planning.solvers.icem import ICEM, coloured
from hiwm.planning.solvers.mppi import MPPI, weights
from hiwm.planning.solvers.random_shooting import RandomShooting
from hiwm.planning.solvers.solver import Proposal, Scores


def test_categorical_probabilities_follow_the_elite():
    solver = CategoricalCEM(elite_share=0.5, smoothing=0.25)
    proposal = Proposal(torch.tensor([[[1.0, 3.0]]]), torch.ones(()), torch.zeros(()), torch.ones(()))
    state = solver.start(proposal)
    assert state.tolist() == [[[0.25, 0.75]]]
    drawn = solver.project(proposal, solver.draw(proposal, state, 20_000, noise()))
    assert drawn.mean(1)[0, 0, 1].item() == pytest.approx(0.75, abs=0.015)
    assert drawn[0, 0].tolist() == [[0.0, 1.0]]
    candidates = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]).reshape(1, 4, 1, 2)
    scores = Scores(torch.tensor([[0.0, 1, 2, 3]]))
    after = solver.update(proposal, state, candidates, scores, scores.order(solver.elites(4)))
    assert after.tolist() == [[[0.25 * 0.25 + 0.75, 0.25 * 0.75]]]
    with pytest.raises(ValueError, match=r"CategoricalCEM gets a proposal .*expected probabilities"):
        solver.start(gaussian())


def test_mppi_weights():
    cost = torch.tensor([[1.0, 2.0, 4.0, torch.inf], [0.5, 0.5, 0.5, 0.5], [torch.inf] * 4])
    found = weights(cost, 0.7)
    raw = [math.exp(-e / 0.7) for e in (1.0, 2.0, 4.0)]
    torch.testing.assert_close(found[0], torch.tensor([*raw, 0.0]) / sum(raw))
    assert found[1:].tolist() == [[0.25] * 4] * 2
    torch.testing.assert_close(weights(cost[:1] + 1e4, 0.7), found[:1], atol=1e-3, rtol=0)  # no overflow


def test_mppi_moves_to_the_weighted_mean():
    candidates, cost = randn(1, 6, 1, 2, seed=1), randn(1, 6, seed=2).abs()
    proposal = gaussian(1, 1, 2, std=0.9)
    for share, count in ((1.0, 6), (0.5, 3)):
        solver, scores = MPPI(temperature=0.4, elite_share=share), Scores(cost)
        elite = scores.order(solver.elites(6))
        after = solver.update(proposal, solver.start(proposal), candidates, scores, elite)
        kept = sorted(range(6), key=lambda s: cost[0, s])[:count]
        raw = {s: math.exp(-cost[0, s].item() / 0.4) for s in kept}
        mean = sum(raw[s] * candidates[0, s] for s in kept) / sum(raw.values())
        torch.testing.assert_close(after.mean[0], mean)
        assert after.std is proposal.std
        std = (sum(raw[s] * (candidates[0, s] - mean) ** 2 for s in kept) / sum(raw.values())).sqrt()
        for most, least in ((9.0, 0.001), (0.2, 0.001), (9.0, 0.9)):
            proposal = gaussian(1, 1, 2, std=most)
            fitted = MPPI(temperature=0.4, elite_share=share, min_std=least)
            after = fitted.update(proposal, fitted.start(proposal), candidates, scores, elite)
            torch.testing.assert_close(after.std[0], std.clamp(least * most, most))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_has_the_spectrum_it_says(exponent):
    length = 64
    noise = coloured(randn(20, 50, length, 2), exponent)
    assert noise.var().item() == pytest.approx(1, abs=0.05)
    power = torch.fft.rfft(noise, dim=2).abs().square().mean((0, 1, 3))[1:-1]
    frequency = torch.fft.rfftfreq(length)[1:-1]
    x, y = frequency.log() - frequency.log().mean(), power.log()
    slope = (x * y).sum() / x.square().sum()
    assert slope.item() == pytest.approx(-exponent, abs=0.05)
    white = randn(3, 4, 7, 2)
    torch.testing.assert_close(coloured(white, 0.0), white)


@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_coloured_noise_of_any_length_has_standard_deviation_one(length):
    noise = coloured(randn(2000, 10, length, 1), 2.5)
    assert noise.shape == (2000, 10, length, 1)
    torch.testing.assert_close(noise.std((0, 1, 3)), torch.ones(length), atol=0.02, rtol=0)


def test_icem_draws_correlated_actions():
    proposal = gaussian(2, choices=32, std=0.7)
    neighbours = []
    for exponent in (0.0, 2.0):
        solver = ICEM(exponent=exponent)
        drawn = solver.draw(proposal, solver.start(proposal), 500, noise())[:, 1:]
        assert drawn.std().item() == pytest.approx(0.7, abs=0.03)
        neighbours.append((drawn[:, :, 1:] * drawn[:, :, :-1]).mean().item() / 0.7**2)
    assert neighbours[0] == pytest.approx(0, abs=0.03)
    assert neighbours[1] > 0.8


def test_icem_draws_fewer_candidates_and_keeps_elites():
    seen, values = [], []
    base = bowl(randn(2, C, F, seed=1))

    def objective(candidates):
        values.append(base(candidates).cost)
        return Scores(values[-1])

    solver = ICEM(iterations=6, elite_share=0.1, decay=1.5, keep=0.5, inertia=0.0)
    found = solver.solve(spied(objective, seen), gaussian(2), 100, noise())
    assert [candidates.shape[1] for candidates in seen] == [100, 67, 44, 30, 20, 20]
    assert found.kept.shape == (2, 1 + 5, C, F)
    # the kept ones are the best of the last round and of those that were kept before
    running = None
    for candidates, known in zip(seen, values, strict=True):
        if running is not None:
            candidates = torch.cat([running[0][:, :5], candidates], 1)
            known = torch.cat([running[1][:, :5], known], 1)
        order = known.argsort(1)[:, :10]
        rows = torch.arange(2).unsqueeze(1)
        running = candidates[rows, order], known[rows, order]
    assert torch.equal(found.kept[:, 1:], running[0][:, :5])


def test_icem_moves_with_inertia():
    proposal = gaussian(1, 1, 1, std=2.0)
    solver = ICEM(elite_share=0.5, inertia=0.25)
    candidates = torch.tensor([1.0, 3.0, 7.0, 9.0]).reshape(1, 4, 1, 1)
    scores = Scores(torch.tensor([[0.0, 1.0, 2.0, 3.0]]))
    after = solver.update(proposal, solver.start(proposal), candidates, scores, scores.order(1))
    assert after.gaussian.mean.item() == pytest.approx(0.75 * 2)
    assert after.gaussian.std.item() == pytest.approx(0.75 * 2**0.5 + 0.25 * 2)


def test_gradient_steps_are_adams():
    """Against Adam in torch, which has no standard deviations: one of 2 makes steps twice as long."""
    target, scale = randn(2, C, F, seed=3), torch.linspace(0.1, 3, C * F).reshape(C, F)
    seen = []
    solver = Gradient(iterations=12, learning_rate=0.05)
    solver.solve(spied(bowl(target, scale), seen), gaussian(2, std=2.0), 1, noise())
    point = torch.zeros(2, C, F, requires_grad=True)
    adam = torch.optim.Adam([point], lr=0.1)
    for candidates in seen:
        torch.testing.assert_close(candidates[:, 0], point.detach(), atol=1e-5, rtol=1e-4)
        adam.zero_grad()
        bowl(target, scale)(point.unsqueeze(1)).cost.sum().backward()
        adam.step()


def test_gradient_becomes_feasible_although_the_cost_pulls_the_other_way():
    def objective(candidates):
        total = candidates.sum((-1, -2))
        return Scores(-total, torch.stack([total + 1, -100 - total], -1))

    found = Gradient(iterations=30).solve(objective, gaussian(2), 1, noise())
    assert (found.violation <= 0).all()


def test_gradient_works_under_no_grad_and_refuses_a_cost_without_gradient():
    with torch.no_grad():
        found = Gradient(iterations=100).solve(bowl(torch.ones(1, C, F)), gaussian(1), 2, noise())
        assert found.cost.item() < 1e-2
        with pytest.raises(ValueError, match=r"planner.solver is Gradient but the cost has no gradient"):
            Gradient().solve(lambda c: Scores(c.detach().sum((-1, -2))), gaussian(1), 2, noise())


def test_random_shooting_draws_from_the_proposal():
    seen = []
    proposal = gaussian(2, std=0.5)
    RandomShooting(iterations=2).solve(spied(bowl(randn(2, C, F)), seen), proposal, 4000, noise())
    for candidates in seen:
        assert candidates.mean().abs() < 0.01
        assert candidates.std().item() == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(seen[0], seen[1])
