"""Laplacian coordinates: the squared distance between two latents is a commute time."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.checks import within
from hiwm.levels.distributed import average_over_processes, first_row
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer

EPS = 1e-6


class Laplacian(Regularizer):
    """The smoothest functions of the state that are uncorrelated, scaled to equal steps.

        sum over j of 1/s_j * (1/2 mean of (u_T,j - u_0,j)^2  +  barrier * sum over k <= j of (mean of u_j sg(u_k) - [j = k])^2  +  barrier * (mean of u_j)^2)

    with u_j = s_j z_j, for the first and last state of each window of T steps, and sg for no gradient. At the minimum, u_j are eigenfunctions of the Laplacian of the data's
    moves, the smoothest first: the objective of Gomez et al. (2024, arXiv 2310.10833, equation 6), whose barrier alone is used here, without dual variables. The scales s_j
    are such that all dimensions of z move equally far in a window, T/D in mean square. Then the variance of z_j is inverse to the eigenvalue, and |z_a - z_b|^2 is proportional to the
    commute time of a random walk with these moves between a and b (ALPS, Shehmar et al. 2026, arXiv 2602.05031). On a tree, such as the corridors of a maze, that is proportional
    to the length of the path. Smooth functions differ little within a step and are learned slowly, so the longer the windows, the better.

    All states should be connected: functions that are constant in each of several worlds have the eigenvalue 0. It suits worlds in which steps can be undone.

    Args:
        barrier: weight of the constraints; larger than the eigenvalues of interest, which are at most 2.
    """

    def __init__(self, *, barrier: float = 2.5) -> None:
        super().__init__()
        within("(0, inf)", barrier=barrier)
        self.barrier = barrier

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        latent = output.latent
        moved, rows = latent[:, -1] - latent[:, 0], latent[:, [0, -1]].flatten(0, 1)
        dim, steps = latent.shape[2], latent.shape[1] - 1
        step, size = (average_over_processes(x.detach().square().mean(0)) for x in (moved, rows))
        # s_j^2 times the mean square of z_j is 1 if z_j moves as it should
        scale = (dim / steps * step / size.clamp_min(EPS)).sqrt().clamp_min(EPS)
        smooth = 0.5 * (scale * moved).square().mean(0)
        # a product of the errors of two halves of the batch, because the square of one error would also punish its noise
        number = first_row(len(latent)) + torch.arange(len(latent), device=latent.device)
        halves = [(number % 2 == half).float().repeat_interleave(2) for half in (0, 1)]
        errors = [_errors(scale * rows, weight) for weight in halves]
        constraints = self.barrier * (errors[0] * errors[1]).sum(1)
        return ((smooth + constraints) / scale).sum()


def _errors(u: Tensor, weight: Tensor) -> Tensor:
    """Errors of second moments, on and below the diagonal, and in the last column of means; rows (N, D) with weights (N,) -> (D, D + 1)."""
    share = average_over_processes(weight.mean()).clamp_min(EPS)  # a half of a batch of one window is empty
    weighted = weight.unsqueeze(1) * u
    moments = average_over_processes(weighted.T @ u.detach() / len(u)) / share
    mean = average_over_processes(weighted.mean(0)) / share
    identity = torch.eye(u.shape[1], device=u.device)
    return torch.cat([(moments - identity).tril(), mean.unsqueeze(1)], 1)
