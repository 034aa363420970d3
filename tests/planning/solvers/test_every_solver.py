"""The contract of every solver in `configs/solver/`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
import torch
import yaml
from planning_tools import noise
from solver_tools import SAMPLES, B, C, F, bowl, gaussian, options, randn, spied

from hiwm.build import build
from hiwm.planning.solvers.augmented_lagrangian import AugmentedLagrangian
from hiwm.planning.solvers.categorical import CategoricalCEM
from hiwm.planning.solvers.cem import CEM
from hiwm.planning.solvers.gradient import Gradient
from hiwm.planning.solvers.icem import ICEM
from hiwm.planning.solvers.mppi import MPPI
from hiwm.planning.solvers.random_shooting import RandomShooting
from hiwm.planning.solvers.solver import GRADIENT_PASSES, Proposal, Scores

CONFIGS = sorted((tiny.ROOT / "configs" / "solver").glob("*.yaml"))


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
    assert rollouts == pytest.approx(solver.cost_in_rounds * SAMPLES, abs=0.5 * len(seen))
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
    found = solver.solve(objective, proposal, 100, noise(1))
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
        solver.solve(spied(objective, seen), proposal, SAMPLES, noise(), stop_at=now.seconds + limit)
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ICEM(decay=0.9), r"^decay is 0.9; expected at least 1"),
        (lambda: ICEM(inertia=1.0), r"^inertia is 1.0; expected a number in \[0, 1\)"),
        (lambda: MPPI(temperature=0.0), r"^temperature is 0.0; expected a number in \(0, inf\)"),
        (lambda: MPPI(min_std=2.0), r"^min_std is 2.0; expected a number in \[0, 1\]"),
        (lambda: Gradient(decay=(0.9, 1.0)), r"^decay\[1\] is 1.0; expected a number in \[0, 1\)"),
        (lambda: RandomShooting(iterations=0), r"^iterations is 0; expected at least 1"),
        (lambda: CategoricalCEM(smoothing=1.0), r"^smoothing is 1.0"),
        (
            lambda: AugmentedLagrangian(solver=CEM(), outer_iterations=0),
            r"^outer_iterations is 0; expected at least 1",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
