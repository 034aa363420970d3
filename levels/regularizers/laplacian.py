"""Laplacian coordinates: the squared distance between two latents is proportional to a commute time."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.checks import within
from hiwm.levels.distributed import average_over_processes, first_row
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer

EPS = 1e-6
LEAST_SCALE = 0.01  # of a dimension that hardly moves


class Laplacian(Regularizer):
    """The smoothest functions of the state that are uncorrelated, scaled to equal moves.

        sum over j of 1/s_j * (1/2 mean of (u_T,j - u_0,j)^2
                               + barrier * sum over k <= j of (mean of u_j sg(u_k) - [j = k] * (1 + e_j / barrier))^2  +  barrier * (mean of u_j)^2)

    with u_j = s_j z_j, for the first and last state of each window of T steps, and sg for no gradient. At the minimum, u_j are eigenfunctions of the Laplacian of the data's
    moves over a window, the smoothest first: the objective of Gomez et al. (2024, arXiv 2310.10833, equation 6), whose
    barrier alone is used here, without dual variables. Instead of these, the estimate e_j of the eigenvalue makes the mean of
    u_j^2 exactly 1. The scales s_j are such that all dimensions of z then move equally far in a window, T/D in mean square.
    So the variance of z_j is inverse to the eigenvalue, and |z_a - z_b|^2 is proportional to the commute time between a and b
    of a random walk whose moves are those of the windows (ALPS, Shehmar et al. 2026, arXiv 2602.05031), as far as D
    eigenfunctions can tell. In a long corridor that is about proportional to the length of the path; where there are two
    ways, it is less than either. The longer the windows, the faster smooth functions are learned, and the less does a short
    path count.

    It does not make a metric level: the distance is a sum of squares, and a step of the level is no step of the walk. All
    states should be connected, because functions that are constant in each of several worlds have the eigenvalue 0. It does
    not suit the latents of `BesideInputsEncoder`. It suits worlds in which steps can be undone.

    Args:
        barrier: weight of the constraints; larger than the eigenvalues of interest, which are at most 2.
    """

    def __init__(self, *, barrier: float = 2.5) -> None:
        super().__init__()
        within("(0, inf)", barrier=barrier)
        self.barrier = barrier

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        latent = output.latent
        dim, steps = latent.shape[2], latent.shape[1] - 1
        moved, rows = latent[:, -1] - latent[:, 0], latent[:, ::steps].flatten(0, 1)
        moves, size = (average_over_processes(x.detach().square().mean(0)) for x in (moved, rows))
        size = size.clamp_min(EPS)
        scale = (dim / steps * moves / size).sqrt().clamp_min(LEAST_SCALE)
        wanted = 1 + 0.5 * moves / size / self.barrier
        smooth = 0.5 * (scale * moved).square().mean(0)
        # a product of the errors of two halves of the batch, because the square of one error would also punish its noise
        number = first_row(len(latent)) + torch.arange(len(latent), device=latent.device)
        halves = [(number % 2 == half).float().repeat_interleave(2) for half in (0, 1)]
        errors = [_errors(scale * rows, weight, wanted) for weight in halves]
        constraints = self.barrier * (errors[0] * errors[1]).sum(1)
        return ((smooth + constraints) / scale).sum()


def _errors(u: Tensor, weight: Tensor, wanted: Tensor) -> Tensor:
    """Errors of second moments, on and below the diagonal, and in the last column of means; rows (N, D), weights (N,), mean squares (D,) -> (D, D + 1)."""
    share = average_over_processes(weight.mean()).clamp_min(EPS)  # a half of a batch of one window is empty
    weighted = weight.unsqueeze(1) * u
    moments = average_over_processes(weighted.T @ u.detach() / len(u)) / share
    mean = average_over_processes(weighted.mean(0)) / share
    return torch.cat([(moments - wanted.diag()).tril(), mean.unsqueeze(1)], 1)
