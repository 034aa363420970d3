"""Solvers on problems with a known solution."""

from __future__ import annotations

import itertools

import pytest
import torch
from planning_tools import noise
from solver_tools import C, F, bowl, gaussian, options, randn

from hiwm.planning.solvers.augmented_lagrangian import AugmentedLagrangian
from hiwm.planning.solvers.categorical import CategoricalCEM
from hiwm.planning.solvers.cem import CEM
from hiwm.planning.solvers.gradient import Gradient
from hiwm.planning.solvers.icem import ICEM
from hiwm.planning.solvers.mppi import MPPI
from hiwm.planning.solvers.solver import Scores

CONTINUOUS = {
    "cem": (CEM(iterations=30, elite_share=0.1, min_std=1e-3), 300),
    "icem": (ICEM(iterations=30, elite_share=0.1, decay=1.02, exponent=0.5), 400),
    "mppi": (MPPI(iterations=40, temperature=0.3, elite_share=0.125, min_std=0.02), 300),
    "gradient": (Gradient(iterations=200, learning_rate=0.1), 3),
    "augmented_lagrangian": (AugmentedLagrangian(solver=CEM(iterations=10, min_std=0.01), outer_iterations=3), 300),
}


@pytest.fixture(params=CONTINUOUS)
def thorough(request):
    return CONTINUOUS[request.param]


def test_a_quadratic(thorough):
    target, scale = 0.5 * randn(4, C, F, seed=5), torch.linspace(0.5, 2, C * F).reshape(C, F)
    found = thorough[0].solve(bowl(target, scale), gaussian(4), thorough[1], noise())
    torch.testing.assert_close(found.actions, target, atol=0.02, rtol=0)
    assert found.cost.max() < 1e-3


def test_a_coupled_quadratic_in_a_box(thorough):
    """min x'Qx / 2 - b'x, free optimum (1, 0.25), with x <= 0.5: x1 = 0.5 is active, x2 = (b2 - Q21 x1) / Q22 = 0.5."""
    curvature = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    slope = curvature @ torch.tensor([1.0, 0.25])

    def objective(candidates):
        x = candidates[:, :, 0]
        return Scores(((x @ curvature) * x).sum(-1) / 2 - x @ slope)

    found = thorough[0].solve(objective, gaussian(2, 1, 2, bound=0.5), thorough[1], noise())
    torch.testing.assert_close(found.actions, torch.full((2, 1, 2), 0.5), atol=0.02, rtol=0)


def test_linear_quadratic_regulator(thorough):
    """x' = A x + B u, cost sum of u'Ru and x'Qx: the optimum is x0' P x0 by the Riccati recursion."""
    a, b = torch.tensor([[1.0, 0.3], [0.0, 1.0]]), torch.tensor([[0.0], [0.5]])
    q, r, horizon = torch.diag(torch.tensor([1.0, 0.1])), torch.tensor([[0.2]]), 6
    begin = torch.tensor([[1.0, 0.0], [-0.5, 0.8], [0.3, 0.3]])
    value, gains = torch.zeros(2, 2), []
    for _ in range(horizon):
        ahead = q + value
        gains.insert(0, torch.linalg.solve(r + b.T @ ahead @ b, b.T @ ahead @ a))
        value = a.T @ ahead @ (a - b @ gains[0])
    best, state = [], begin
    for gain in gains:
        best.append(-state @ gain.T)
        state = state @ a.T + best[-1] @ b.T
    optimum = ((begin @ value) * begin).sum(1)

    def objective(candidates):
        state, cost = begin.unsqueeze(1), 0.0
        for action in candidates.unbind(2):
            state = state @ a.T + action @ b.T
            cost = cost + (state @ q * state).sum(-1) + (action @ r * action).sum(-1)
        return Scores(cost)

    torch.testing.assert_close(objective(torch.stack(best, 1).unsqueeze(1)).cost[:, 0], optimum)
    found = thorough[0].solve(objective, gaussian(3, horizon, 1), thorough[1], noise())
    torch.testing.assert_close(found.cost, optimum, rtol=0.01, atol=0)
    torch.testing.assert_close(found.actions, torch.stack(best, 1), atol=0.12, rtol=0)


@pytest.mark.parametrize("slack", [True, False])
@pytest.mark.parametrize("inner", [CEM(iterations=25, min_std=1e-3), Gradient(iterations=120, learning_rate=0.05)])
def test_a_constrained_quadratic_and_its_multipliers(inner, slack):
    """min |a - t|^2 / 2 with c'a <= d: a = t - lambda c with lambda = max(0, c't - d) / |c|^2."""
    target, normal = randn(3, C, F, seed=6), randn(C, F, seed=8)
    reach = (target * normal).sum((1, 2))
    limit = reach - torch.tensor([1.0, 3.0, -1.0])  # the third environment's does not matter
    multiplier = (reach - limit).clamp_min(0) / normal.square().sum()

    def objective(candidates):
        over = (candidates * normal).sum((2, 3)) - limit.unsqueeze(1)
        never = over - 100
        violation = torch.stack([over, never], -1)
        value = (candidates - target.unsqueeze(1)).square().sum((2, 3)) / 2
        return Scores(value, violation if slack else violation.clamp_min(0))

    solver = AugmentedLagrangian(solver=inner, outer_iterations=6)
    found = solver.solve(objective, gaussian(), 150, noise())
    expected = target - multiplier[:, None, None] * normal
    torch.testing.assert_close(found.actions, expected, atol=0.06, rtol=0)
    # with the slack cut off a multiplier can only rise, here by what the search is not exact
    torch.testing.assert_close(found.multipliers[:, 0], multiplier, atol=0.03 if slack else 0.2, rtol=0)
    assert (found.multipliers[2] == 0).all()
    assert (found.multipliers[:, 1] == 0).all()
    assert found.violation.clamp_min(0).max() < 2e-3
    torch.testing.assert_close(found.cost, (expected - target).square().sum((1, 2)) / 2, atol=0.01, rtol=0.02)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_discrete_problem_by_enumeration(wrapped):
    """Four choices of three options, with costs of single options and of pairs of neighbours."""
    size = 3
    single, pair = randn(5, C, size, seed=1), 1.5 * randn(5, C - 1, size, size, seed=2)

    def objective(candidates):
        alone = (candidates * single.unsqueeze(1)).sum((2, 3))
        return Scores(alone + torch.einsum("bsci,bcij,bscj->bs", candidates[:, :, :-1], pair, candidates[:, :, 1:]))

    every = torch.tensor(list(itertools.product(range(size), repeat=C)))
    every = torch.nn.functional.one_hot(every, size).float().expand(5, -1, -1, -1)
    best = objective(every).cost.min(1)
    assert len(best.indices.unique()) > 2
    solver = CategoricalCEM(iterations=8, elite_share=0.2)
    solver = AugmentedLagrangian(solver=solver, outer_iterations=2) if wrapped else solver
    # 8 rounds of 20 are twice the 81 sequences; drawn evenly, they would often miss the best
    found = solver.solve(objective, options(5, size=size), 20, noise(2))
    assert torch.equal(found.actions, every[torch.arange(5), best.indices])
    assert torch.equal(found.cost, best.values)
