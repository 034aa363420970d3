from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from planning_tools import noise

from hiwm.planning.solvers.cem import CEM
from hiwm.planning.solvers.solver import Proposal, Scores

H, A = 3, 2


def quadratic(target, scale=None):
    """Cost (a - target)' diag(scale) (a - target), target (B, H, A); unbounded optimum: the target itself."""
    scale = torch.ones(target.shape[1:]) if scale is None else scale

    def objective(candidates):
        return Scores((scale * (candidates - target.unsqueeze(1)) ** 2).sum((-1, -2)))

    return objective


def proposal(batch, bound=10.0, std=1.0, mean=0.0):
    return Proposal(
        torch.full((batch, H, A), mean),
        torch.full((batch, H, A), std),
        torch.full((A,), -bound),
        torch.full((A,), bound),
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_finds_the_optimum_of_a_quadratic():
    target = torch.randn(4, H, A, generator=generator(5))
    scale = torch.linspace(0.5, 2, H * A).reshape(H, A)
    found = CEM(iterations=30, elite_share=0.1, min_std=1e-3).solve(quadratic(target, scale), proposal(4), 300, noise())
    torch.testing.assert_close(found.actions, target, atol=0.03, rtol=0)
    assert found.cost.max() < 2e-3


def test_active_bounds_are_reached_and_kept():
    target = torch.tensor([2.0, -0.2]).expand(2, H, A)
    found = CEM(iterations=20, elite_share=0.1, min_std=1e-3).solve(
        quadratic(target), proposal(2, bound=0.5), 300, noise()
    )
    assert found.actions.abs().max() <= 0.5
    best = target.clamp(-0.5, 0.5)
    torch.testing.assert_close(found.actions, best, atol=0.03, rtol=0)
    torch.testing.assert_close(found.cost, quadratic(target)(best.unsqueeze(1)).cost.squeeze(1), rtol=5e-3, atol=0)


def test_every_candidate_lies_within_the_bounds():
    seen = []

    def objective(candidates):
        seen.append(candidates)
        return Scores(candidates.square().sum((-1, -2)))

    low, high = torch.tensor([-0.3, -1.0]), torch.tensor([0.1, 0.2])
    start = proposal(2)
    CEM(iterations=3).solve(objective, Proposal(start.mean, start.std, low, high), 50, noise())
    assert len(seen) == 3
    assert all(((c >= low) & (c <= high)).all() for c in seen)
    assert (seen[0] == high).any()  # the bounds were active


def test_bounds_may_differ_between_problems():
    target = torch.full((3, H, A), 5.0)
    start = proposal(3)
    high = torch.tensor([0.5, 1.0, 2.0])[:, None, None].expand(3, H, A)
    found = CEM(iterations=20).solve(quadratic(target), Proposal(start.mean, start.std, start.low, high), 200, noise())
    assert (found.actions <= high).all()
    torch.testing.assert_close(found.actions, high, atol=0.03, rtol=0)


def test_batched_problems_do_not_influence_each_other():
    one, two, other = torch.randn(3, H, A, generator=generator(7))
    solver = CEM(iterations=5)
    first = solver.solve(quadratic(torch.stack([one, two])), proposal(2), 40, noise())
    second = solver.solve(quadratic(torch.stack([one, other])), proposal(2), 40, noise())
    assert torch.equal(first.actions[0], second.actions[0])
    assert torch.equal(first.cost[0], second.cost[0])
    assert not torch.equal(first.actions[1], second.actions[1])


def test_the_result_has_the_least_cost_seen():
    target = torch.randn(3, H, A, generator=generator(1))
    wiggly, seen = quadratic(target), []

    def objective(candidates):
        values = wiggly(candidates).cost + 3 * torch.sin(20 * candidates.sum((-1, -2)))
        seen.append(values)
        return Scores(values)

    found = CEM(iterations=6).solve(objective, proposal(3), 30, noise())
    assert torch.equal(found.cost, torch.cat(seen, 1).amin(1))
    torch.testing.assert_close(objective(found.actions.unsqueeze(1)).cost.squeeze(1), found.cost)


def test_the_mean_is_always_a_candidate():
    mean = torch.randn(2, H, A, generator=generator(3))
    start = proposal(2)
    found = CEM(iterations=1).solve(quadratic(mean), Proposal(mean, start.std, start.low, start.high), 4, noise())
    assert torch.equal(found.actions, mean)
    assert torch.equal(found.cost, torch.zeros(2))


def test_same_generator_same_solution():
    target = torch.randn(2, H, A, generator=generator(4))
    answers = [CEM().solve(quadratic(target), proposal(2), 20, noise(seed)).actions for seed in (0, 0, 1)]
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


def test_the_standard_deviation_stays_above_a_share_of_that_of_the_proposal():
    start = proposal(1, std=2.0)
    candidates = torch.zeros(1, 10, H, A)
    candidates[:, :, 0] = torch.arange(10.0)[:, None]
    scores = Scores(torch.arange(10.0).unsqueeze(0))
    solver = CEM(elite_share=0.5, min_std=0.25)
    after = solver.update(start, solver.start(start), candidates, scores, scores.order(solver.elites(10)))
    assert after.mean[0, :, 0].tolist() == [2.0, 0.0, 0.0]
    torch.testing.assert_close(after.std[0, :, 0], torch.tensor([2.5**0.5, 0.5, 0.5]))


def test_the_solutions_of_the_first_version():
    """Of the CEM in commit 54905de: results of old seeds stay what they are."""
    index = torch.arange(2 * H * A, dtype=torch.float32).reshape(2, H, A)
    bowl = quadratic(torch.sin(index))

    def objective(candidates):
        return Scores(bowl(candidates).cost + torch.sin(5 * candidates.sum((-1, -2))))

    bound = torch.tensor([0.6, 0.9])
    start = Proposal(torch.cos(index) / 4, torch.full_like(index, 0.7), -bound, bound)
    one_stream = generator(7)  # that version drew for all episodes together
    drawn = SimpleNamespace(normal=lambda shape: torch.randn(shape, generator=one_stream))
    found = CEM(iterations=4, elite_share=0.2).solve(objective, start, 30, drawn)
    actions = [
        [[0.033702597, 0.789077282], [0.600000024, -0.246401042], [-0.469689399, -0.899999976]],
        [[-0.040792339, 0.422913671], [0.600000024, 0.137667879], [0.327554017, -0.519542456]],
    ]
    torch.testing.assert_close(found.actions, torch.tensor(actions), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.cost, torch.tensor([-0.487307787, 0.331818819]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("arguments", [{"iterations": 0}, {"elite_share": 0.0}, {"elite_share": 1.5}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))}"):
        CEM(**arguments)
