"""The multipliers and penalties of the augmented Lagrangian."""

from __future__ import annotations

import torch
from solver_tools import C, F, gaussian, randn

from hiwm.planning.solvers.augmented_lagrangian import AugmentedLagrangian, Duals, lagrangian
from hiwm.planning.solvers.cem import CEM
from hiwm.planning.solvers.random_shooting import RandomShooting
from hiwm.planning.solvers.solver import Scores


def test_the_term_that_constraints_add_to_the_cost():
    """(max(0, lambda + rho g)^2 - lambda^2) / (2 rho), summed over the constraints."""
    multipliers, penalties = torch.tensor([[0.0, 1.5]]), torch.tensor([[2.0, 4.0]])
    violation = randn(1, 50, 2, seed=1)
    over = (multipliers + penalties * violation).clamp_min(0)
    expected = ((over**2 - multipliers**2) / (2 * penalties)).sum(-1)
    torch.testing.assert_close(lagrangian(violation, Duals(multipliers, penalties, multipliers)), expected)


def test_multipliers_follow_from_the_best_of_a_round():
    """The second inner round is worse than the first."""
    solver = AugmentedLagrangian(solver=RandomShooting(iterations=2), penalty=2.0)
    proposal = gaussian(1)
    state = solver.start(proposal)
    first, second = randn(1, 5, C, F, seed=1), randn(1, 5, C, F, seed=2)
    for candidates, cost, over in ((first, [3.0, 1.0, 9.0, 9.0, 9.0], 0.5), (second, [9.0] * 5, 4.0)):
        scores = Scores(torch.tensor([cost]), torch.full((1, 5, 1), over))
        state = solver.update(proposal, state, candidates, scores, scores.order(1))
    assert torch.equal(state.proposal.mean, first[:, 1])
    assert state.duals.multipliers.tolist() == [[2.0 * 0.5]]


def test_penalties_grow_only_where_a_constraint_is_far_from_met():
    """Candidates that never change cannot meet the first constraint; they meet the second."""
    solver = AugmentedLagrangian(solver=CEM(iterations=1), outer_iterations=3, penalty=2.0, growth=10.0)
    proposal = gaussian(1, std=0.0)
    state = solver.start(proposal)
    candidates = torch.zeros(1, 5, C, F)
    scores = Scores(torch.zeros(1, 5), torch.tensor([0.5, -1.0]).expand(1, 5, 2))
    seen = []
    for _ in range(3):
        state = solver.update(proposal, state, candidates, scores, scores.order(1))
        seen.append((state.duals.multipliers[0].tolist(), state.duals.penalties[0].tolist()))
    # lambda + rho g: 2 * 0.5, then + 2 * 0.5, then + 20 * 0.5
    assert seen == [([1.0, 0.0], [2.0, 2.0]), ([2.0, 0.0], [20.0, 2.0]), ([12.0, 0.0], [200.0, 2.0])]


def test_a_multiplier_that_is_too_high_leaves_a_residual():
    """A satisfied constraint with a positive multiplier: complementarity fails by the slack, and the penalty grows (Algencan)."""
    solver = AugmentedLagrangian(solver=CEM(iterations=1), outer_iterations=3, penalty=2.0, growth=10.0)
    state, candidates = solver.start(gaussian(1, std=0.0)), torch.zeros(1, 5, C, F)
    seen = []
    for violation in (0.5, -0.5):
        scores = Scores(torch.zeros(1, 5), torch.full((1, 5, 1), violation))
        state = solver.update(gaussian(1, std=0.0), state, candidates, scores, scores.order(1))
        seen.append((state.duals.multipliers.item(), state.duals.penalties.item(), state.duals.residuals.item()))
    assert seen == [(1.0, 2.0, 0.5), (0.0, 20.0, 0.5)]
