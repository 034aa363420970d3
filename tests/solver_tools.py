"""Problems and proposals for tests of solvers: B environments, C choices of F numbers."""

from __future__ import annotations

import torch

from hiwm.planning.solvers.solver import Proposal, Scores

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
