"""A probe: how well kernel ridge regression predicts the true state from a latent."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hiwm.levels.level import Level
from hiwm.levels.output import LevelOutput
from hiwm.training.diagnostics.diagnostic import Diagnostic
from hiwm.training.diagnostics.episodes import EncodedEpisodes

MIN_R2 = 0.2
WIDTHS = (0.5, 1.0, 2.0, 4.0)  # kernel widths, in median distances
RIDGES = (1e-4, 1e-2)
LINEAR = (0.0, 1.0)  # weights of the linear kernel
MAX_ROWS = 1024


class StateProbe(Diagnostic):
    """R2 of a probe of the true state, on episodes that the probe was not fitted on."""

    name = "state_probe_r2"
    label = "state probe R²"
    format = "{:.3f}"
    description = (
        "R² of the true state, predicted from the latent by kernel ridge regression on episodes that the probe was not "
        "fitted on; NaN with fewer than two held-out episodes, or if no column varies."
    )

    def __call__(self, level: Level, output: LevelOutput, episodes: EncodedEpisodes) -> float:
        return state_probe_r2(episodes.latent, episodes.state)

    def alarm(self, value: float) -> str | None:
        return f"the latent hardly determines the true state (probe R2 {value:.2f})" if value < MIN_R2 else None


def state_probe_r2(latent: Tensor, state: Tensor) -> float:
    """R2 of a probe that predicts state (B, T, C) from latent (B, T, D), averaged over the columns that vary.

    The probe is ridge regression with a Gaussian kernel, with and without a linear one. It is non-linear and has a
    closed form. The first half of the episodes fits the probe, the second half tests it. Each column takes the kernel
    and the ridge that are best on the last third of the fitting rows. NaN for a single episode, or if no column varies.
    """
    half = len(latent) // 2
    if half == 0:  # one episode leaves none to test on
        return float("nan")
    z, s, z_test, s_test = (
        x.flatten(0, 1)[:: max(1, (half * latent.shape[1]) // MAX_ROWS)].double()
        for x in (latent[:half], state[:half], latent[half:], state[half:])
    )
    varies = (s.std(0) > 1e-6) & (s_test.std(0) > 1e-6)
    if not varies.any():
        return float("nan")
    s, s_test = s[:, varies], s_test[:, varies]
    z, z_test = ((x - z.mean(0)) / z.std(0).mean().clamp_min(1e-9) for x in (z, z_test))
    fitted = len(z) - len(z) // 3
    median = torch.cdist(z, z).median().clamp_min(1e-9)
    choices = [(width * median, ridge, linear) for width, ridge, linear in itertools.product(WIDTHS, RIDGES, LINEAR)]
    errors = [
        (_predict(z[:fitted], s[:fitted], z[fitted:], *choice) - s[fitted:]).square().mean(0) for choice in choices
    ]
    best = torch.stack(errors).argmin(0)  # (C,)
    predicted = torch.empty_like(s_test)
    for i in best.unique().tolist():
        predicted[:, best == i] = _predict(z, s[:, best == i], z_test, *choices[i])
    return (1 - (predicted - s_test).square().mean(0) / s_test.var(0)).mean().item()


def _predict(z: Tensor, s: Tensor, z_new: Tensor, width: Tensor, ridge: float, linear: float) -> Tensor:
    """Kernel ridge regression fitted on (N, D) -> (N, C), at new points (M, D) -> (M, C)."""

    def kernel(b: Tensor) -> Tensor:
        return linear * b @ z.T / z.shape[1] + torch.exp(-((torch.cdist(b, z) / width) ** 2))

    mean = s.mean(0)
    eye = torch.eye(len(z), dtype=z.dtype, device=z.device)
    return kernel(z_new) @ torch.linalg.solve(kernel(z) + ridge * eye, s - mean) + mean
