"""The contract of every solver in `configs/solver/`, then each solver on problems with a known solution."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny
import torch
import yaml
from planning_tools import noise

from hiwm.build import build
from hiwm.planning.solvers.augmented_lagrangian import AugmentedLagrangian, Duals, lagrangian
from hiwm.planning.solvers.categorical import CategoricalCEM
from hiwm.planning.solvers.cem import CEM
from hiwm.planning.solvers.gradient import Gradient
from hiwm.planning.solvers.icem import ICEM, coloured
from hiwm.planning.solvers.mppi import MPPI, weights
from hiwm.planning.solvers.random_shooting import RandomShooting
from hiwm.planning.solvers.solver import GRADIENT_PASSES, Proposal, Scores, Solution, better

CONFIGS = sorted((tiny.ROOT / "configs" / "solver").glob("*.yaml"))
B, C, F = 3, 4, 2
SAMPLES = 20


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def gaussian(batch=B, choices=C, size=F, std=1.0, bound=10.0, guesses=None):
    mean = torch.zeros(batch, choices, size)
    low, high = torch.full((size,), -bound), torch.full((size,), bound)
    return Proposal(mean, torch.full_like(mean, std), low, high, guesses)


def options(batch=B, choices=C, size=F):
    """The proposal of a discrete search that prefers nothing."""
    return Proposal(torch.full((batch, choices, size), 1 / size), torch.ones(()), torch.zeros(()), torch.ones(()))


def bowl(target, scale=None):
    """Cost (a - target)' diag(scale) (a - target), target (B, C, F); least at the target."""
    scale = torch.ones(target.shape[1:]) if scale is None else scale
    return lambda candidates: Scores((scale * (candidates - target.unsqueeze(1)) ** 2).sum((-1, -2)))


def spied(objective, seen):
    def spy(candidates):
        seen.append(candidates.detach().clone())
        spy.gradients |= candidates.requires_grad
        return objective(candidates)

    spy.gradients = False
    return spy


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def solver(request):
    return build(yaml.safe_load(request.param.read_text()))


@pytest.fixture
def proposal(solver):
    return options() if isinstance(solver, CategoricalCEM) else gaussian(bound=0.8)


def test_every_solver_has_a_config():
    names = {"cem", "icem", "mppi", "gradient", "random", "augmented_lagrangian", "categorical"}
    assert names <= {path.stem for path in CONFIGS}


def test_a_solution_may_be_differentiated_and_changed_in_place(solver, proposal):
    """A search runs in inference mode, and tensors made there allow neither."""
    found = solver.solve(bowl(randn(B, C, F)), proposal, SAMPLES, noise())
    for tensor in (found.actions, found.cost, found.kept):
        assert not tensor.is_inference()
        tensor.add_(1.0).requires_grad_().square().sum().backward()


def test_shapes(solver, proposal):
    found = solver.solve(bowl(randn(B, C, F)), proposal, SAMPLES, noise())
    assert found.actions.shape == (B, C, F)
    assert found.cost.shape == (B,)
    assert found.violation is found.multipliers is None
    assert found.kept.shape[::2] == (B, C)
    assert torch.equal(found.kept[:, 0], found.actions)
    assert not any(x.requires_grad for x in (found.actions, found.cost, found.kept))


def test_candidates_are_allowed_and_take_as_many_rollouts_as_it_says(solver, proposal):
    seen = []
    objective = spied(bowl(randn(B, C, F)), seen)
    found = solver.solve(objective, proposal, SAMPLES, noise())
    assert len(seen) == solver.iterations
    rollouts = sum(candidates.shape[1] for candidates in seen) * (GRADIENT_PASSES if objective.gradients else 1)
    assert rollouts == pytest.approx(solver.rollouts * SAMPLES, abs=0.5 * len(seen))
    for candidates in seen:
        assert candidates.shape[0] == B
        assert candidates.shape[1] <= SAMPLES
        if isinstance(solver, CategoricalCEM):
            assert torch.equal(candidates.sort(-1).values, torch.tensor([0.0, 1.0]).expand_as(candidates))
        else:
            assert candidates.abs().max() <= proposal.high.max()
    # and the answer is the best of them
    every = torch.cat(seen, 1)
    costs = objective(every).cost
    assert torch.equal(found.cost, costs.amin(1))
    assert (every == found.actions.unsqueeze(1)).all((2, 3)).any(1).all()


def test_bounds_are_reached(solver, proposal):
    if isinstance(solver, CategoricalCEM):
        pytest.skip("one-hot vectors have no bounds")
    solver.iterations = 10 * solver.iterations
    found = solver.solve(bowl(torch.full((B, C, F), 4.0)), proposal, 300, noise())
    assert (found.actions > 0.79).float().mean() > 0.5


def test_batched_problems_do_not_influence_each_other(solver, proposal):
    one, two, other = randn(3, C, F, seed=7)
    first = solver.solve(bowl(torch.stack([one, two, two])), proposal, SAMPLES, noise())
    second = solver.solve(bowl(torch.stack([one, other, other])), proposal, SAMPLES, noise())
    assert torch.equal(first.actions[0], second.actions[0])
    assert torch.equal(first.cost[0], second.cost[0])
    assert not torch.equal(first.cost[1], second.cost[1])


@pytest.mark.parametrize("lucky", [True, False])
def test_the_proposals_mean_is_a_candidate(solver, proposal, lucky):
    seen = []
    centre = solver.project(proposal, proposal.mean.unsqueeze(1)).squeeze(1)
    target = centre if lucky else randn(B, C, F, seed=2)
    objective = bowl(target)
    found = solver.solve(spied(objective, seen), proposal, solver.min_samples, noise())
    assert torch.equal(seen[0][:, 0], centre)
    assert (found.cost <= objective(centre.unsqueeze(1)).cost[:, 0]).all()
    if lucky:
        assert torch.equal(found.actions, centre)


def test_a_search_improves_on_the_mean(solver, proposal):
    if isinstance(solver, CategoricalCEM):
        objective = bowl(torch.tensor([0.0, 1.0]).expand(B, C, F))  # the other option of every choice
    else:
        objective = bowl(randn(B, C, F, seed=3).sign() * 0.5)
    found = solver.solve(objective, proposal, 100, noise())
    assert (found.cost < 0.7 * objective(proposal.mean.unsqueeze(1)).cost[:, 0]).all()


def test_guesses_are_tried_first(solver, proposal):
    seen = []
    guesses = randn(B, 3, C, F, seed=4)
    guesses = solver.project(proposal, guesses)
    objective = bowl(guesses[:, 1])
    warm = Proposal(proposal.mean, proposal.std, proposal.low, proposal.high, guesses)
    found = solver.solve(spied(objective, seen), warm, SAMPLES, noise())
    assert torch.equal(seen[0][:, 1:4], guesses)
    assert seen[0].shape[1] == SAMPLES
    assert torch.equal(found.actions, guesses[:, 1])
    # more than there is room for: the first ones, and the mean
    seen.clear()
    solver.solve(spied(objective, seen), warm, max(2, solver.min_samples), noise())
    room = seen[0].shape[1] - 1
    assert torch.equal(seen[0][:, 1:], torch.cat([guesses, seen[0][:, 4:]], 1)[:, :room])


def test_same_generator_same_solution(solver, proposal):
    objective = bowl(randn(B, C, F, seed=5))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    drawn = []
    for seed in (0, 0, 1):
        seen = []
        solver.solve(spied(objective, seen), proposal, SAMPLES, noise(seed))
        drawn.append(torch.cat(seen, 1))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.rand(2), expected)  # global randomness is left alone


def test_the_time_limit(solver, proposal, monkeypatch):
    """A clock that only the objective moves, by one second in each round."""
    now = SimpleNamespace(seconds=0.0)
    clock = SimpleNamespace(perf_counter=lambda: now.seconds)
    monkeypatch.setattr("hiwm.planning.solvers.solver.time", clock)
    seen = []

    def objective(candidates):
        now.seconds += 1
        return bowl(randn(B, C, F))(candidates)

    for limit in (0.0, 0.5, 1.0, 1.9, 2.0, 2.5, 1000.0):
        seen.clear()
        solver.solve(spied(objective, seen), proposal, SAMPLES, noise(), deadline=now.seconds + limit)
        assert len(seen) == min(max(1, int(limit)), solver.iterations)


def test_an_infeasible_candidate_is_not_the_result(solver, proposal):
    """The first choice may not be what minimises the cost."""

    def objective(candidates):
        wish = candidates[..., 1].sum(-1)  # of a discrete choice the second option
        return Scores(-wish, (candidates[:, :, 0, 1] - 0.1).unsqueeze(-1))

    found = solver.solve(objective, proposal, 50, noise())
    assert (found.violation <= 0).all()
    assert found.violation.shape == (B, 1)
    assert (found.actions[:, 0, 1] <= 0.1).all()
    assert (-found.cost > found.actions[:, 0, 1] + 0.3).all()  # the other choices went where they may


def test_if_no_candidate_is_feasible_the_least_violation_wins(solver, proposal):
    """Only the violation counts."""
    seen = []

    def objective(candidates):
        over = 5 + candidates[:, :, 1:, 0].clamp_max(1.5)
        return Scores(candidates.sum((-1, -2)), torch.cat([over, over - 100], -1))

    found = solver.solve(spied(objective, seen), proposal, SAMPLES, noise())
    totals = torch.cat([objective(candidates).violation.clamp_min(0).sum(-1) for candidates in seen], 1)
    assert torch.equal(found.violation.clamp_min(0).sum(-1), totals.amin(1))


def test_a_cost_that_is_nan_is_the_worst(solver, proposal):
    def objective(candidates):
        values = bowl(randn(B, C, F))(candidates).cost
        return Scores(torch.where(torch.arange(values.shape[1]) % 2 == 1, torch.nan, values))

    found = solver.solve(objective, proposal, SAMPLES, noise())
    assert found.cost.isfinite().all()
    assert found.actions.isfinite().all()
    nothing = solver.solve(lambda c: Scores(0 * c.sum((-1, -2)) + torch.nan), proposal, SAMPLES, noise())
    assert (nothing.cost == torch.inf).all()
    assert nothing.actions.isfinite().all()


# closed forms


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
    found = solver.solve(objective, options(5, size=size), 20, noise(1))
    assert torch.equal(found.actions, every[torch.arange(5), best.indices])
    assert torch.equal(found.cost, best.values)


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
    with pytest.raises(ValueError, match=r"CategoricalCEM: the mean of the proposal .*expected probabilities"):
        solver.start(gaussian())


def test_candidates_are_ranked_by_the_rules_of_deb():
    """Feasible candidates by their cost, then the others by their violation alone."""
    cost = torch.tensor([[3.0, 1.0, -9.0, -5.0, 2.0], [0.0, 1.0, 2.0, 3.0, 4.0]])
    first = torch.tensor([[-1.0, 0.0, 2.0, 0.5, -3.0], [1.0, 0.3, 0.2, 4.0, 9.0]])
    scores = Scores(cost, torch.stack([first, torch.full_like(first, -1.0)], -1))
    assert scores.order(5).tolist() == [[1, 4, 0, 3, 2], [2, 1, 0, 3, 4]]
    assert scores.penalised()[0].tolist() == [3.0, 1.0, 5.0, 3.5, 2.0]
    torch.testing.assert_close(scores.penalised()[1], first[1])
    assert Scores(cost).penalised() is cost


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
        with pytest.raises(ValueError, match="Gradient: the cost has no gradient"):
            Gradient().solve(lambda c: Scores(c.detach().sum((-1, -2))), gaussian(1), 2, noise())


def test_random_shooting_draws_from_the_proposal():
    seen = []
    proposal = gaussian(2, std=0.5)
    RandomShooting(iterations=2).solve(spied(bowl(randn(2, C, F)), seen), proposal, 4000, noise())
    for candidates in seen:
        assert candidates.mean().abs() < 0.01
        assert candidates.std().item() == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ICEM(decay=0.9), r"ICEM.decay is 0.9; expected at least 1"),
        (lambda: ICEM(inertia=1.0), r"ICEM.inertia is 1.0; expected a number in \[0, 1\)"),
        (lambda: MPPI(temperature=0.0), r"MPPI.temperature is 0.0; expected a number in \(0, inf\)"),
        (lambda: MPPI(min_std=2.0), r"MPPI.min_std is 2.0; expected a number in \[0, 1\]"),
        (lambda: Gradient(decay=(0.9, 1.0)), r"Gradient.decay\[1\] is 1.0; expected a number in \[0, 1\)"),
        (lambda: RandomShooting(iterations=0), r"RandomShooting.iterations is 0; expected at least 1"),
        (lambda: CategoricalCEM(smoothing=1.0), r"CategoricalCEM.smoothing is 1.0"),
        (
            lambda: AugmentedLagrangian(solver=CEM(), outer_iterations=0),
            r"AugmentedLagrangian.outer_iterations is 0; expected at least 1",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def solution(cost, violation=None):
    """One environment for each cost; the actions are the cost and its place, to tell equal ones apart."""
    cost = torch.tensor(cost)
    actions = torch.stack([cost, torch.rand(len(cost), generator=generator(len(cost)))], 1).unsqueeze(1)
    return Solution(actions, cost, None if violation is None else torch.tensor(violation), actions.unsqueeze(1))


def test_the_better_of_two_solutions():
    old, new = solution([1.0, 2.0, 3.0]), solution([2.0, 1.0, 3.0])
    new = replace(new, actions=new.actions + 0.5)
    found = better(old, new)
    assert found.cost.tolist() == [1, 1, 3]
    # the old one if they are equal
    assert torch.equal(found.actions, torch.stack([old.actions[0], new.actions[1], old.actions[2]]))
    assert torch.equal(found.kept, found.actions.unsqueeze(1))
    assert better(None, new) is new


def test_the_better_of_two_solutions_has_the_least_violation_then_the_least_cost():
    old = solution([1.0, 1.0, 1.0, 1.0, 1.0], [[0.5, 0.0], [0.2, 0.2], [-1.0, -1.0], [-1.0, -1.0], [0.3, -9.0]])
    new = solution([9.0, 0.0, 2.0, 0.0, 1.0], [[0.1, 0.2], [0.5, -1.0], [-9.0, 0.0], [0.0, -5.0], [-9.0, 0.3]])
    new = replace(new, actions=new.actions + 0.5)
    found = better(old, new)
    wins = [True, False, False, True, False]  # less violation; more; equal and a higher, a lower, the same cost
    assert found.cost.tolist() == [9, 1, 1, 0, 1]
    for field in ("actions", "violation"):
        chosen = [getattr(new if win else old, field)[i] for i, win in enumerate(wins)]
        assert torch.equal(getattr(found, field), torch.stack(chosen))


@pytest.mark.parametrize("constrained", [False, True])
def test_the_first_of_equally_good_candidates_is_the_result(constrained):
    """Over all rounds: a plan must not change with the rounds if nothing better was found."""
    seen = []

    def flat(candidates):
        violation = candidates.new_full((*candidates.shape[:2], 1), 0.25) if constrained else None
        return Scores(candidates.new_ones(candidates.shape[:2]), violation)

    found = RandomShooting(iterations=3).solve(spied(flat, seen), gaussian(), SAMPLES, noise())
    first, *later = seen
    assert (first == found.actions.unsqueeze(1)).all((2, 3)).any(1).all()
    for candidates in later:
        assert not (candidates[:, 1:] == found.actions.unsqueeze(1)).all((2, 3)).any()
