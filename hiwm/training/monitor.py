"""Collapse, watched while training: what a level's latent keeps of the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hiwm.levels.level import Level
from hiwm.levels.output import LevelOutput

# Alarm thresholds, far from any healthy stack seen here (effective rank share 0.3 to 1, within-episode share 0.6 to 1,
# copy-last ratio below 0.3).
MIN_RANK_SHARE = 0.1
MIN_STD = 0.1
MIN_WITHIN_EPISODE = 0.05
MAX_COPY_LAST = 0.9
MIN_READOUT = 0.2
READOUT_WIDTHS = (0.5, 1.0, 2.0, 4.0)  # of the median distance
READOUT_RIDGES = (1e-4, 1e-2)


@dataclass(frozen=True)
class Episodes:
    """Evenly spaced moments of some held-out episodes.

    Args:
        inputs: a level's named inputs, each (B, T, ...).
        state: columns of the true state at the same moments, (B, T, C).
    """

    inputs: Mapping[str, Tensor]
    state: Tensor


@torch.no_grad()
def diagnose(level: Level, output: LevelOutput, episodes: Episodes) -> dict[str, float]:
    """Health of a level on held-out data.

    Args:
        level: the level, in eval mode.
        output: windows that it predicted.
        episodes: moments spread over whole episodes.

    Returns:
        effective_rank: exp of the entropy of the covariance's normalised eigenvalues (Roy & Vetterli 2007), 1 to D.
        rank_share: how far it is from 1 (all on a line) to what it could be (D, or the number of inputs where that is
            smaller), 0 to 1.
        std: mean deviation of a latent dimension.
        within_episode: share of the latent's variance inside episodes; near 0, only what never changes is encoded.
        copy_last: open-loop prediction error over the error of predicting no change.
        readout_r2: R2 of the state, read out of the latent by kernel ridge regression on half the episodes.
    """
    latent = level.encode(episodes.inputs)
    rows = latent.flatten(0, 1)
    rank = effective_rank(rows)
    most = min(rows.shape[1], sum(value[0, 0].numel() for value in episodes.inputs.values()))
    return {
        "effective_rank": rank,
        "rank_share": 1.0 if most == 1 else min(1.0, (rank - 1) / (most - 1)),
        "std": rows.std(0).mean().item(),
        "within_episode": (latent.var(1).sum(-1).mean() / rows.var(0).sum().clamp_min(1e-12)).item(),
        "copy_last": ratio_to_copy_last(output.predicted, output.latent),
        "readout_r2": readout_r2(latent, episodes.state),
    }


def ratio_to_copy_last(predicted: Tensor, latent: Tensor) -> float:
    """Squared error of a rollout (B, T, D) over that of repeating the first latent of (B, T+1, D)."""
    error = (predicted - latent[:, 1:]).square().mean()
    return (error / (latent[:, :1] - latent[:, 1:]).square().mean().clamp_min(1e-12)).item()


def effective_rank(rows: Tensor) -> float:
    """exp(entropy of the covariance's eigenvalues), (N, D) -> 1 to D."""
    values = torch.linalg.eigvalsh(torch.cov(rows.double().T).reshape(rows.shape[1], -1)).clamp_min(0)
    share = values / values.sum().clamp_min(1e-30)
    return torch.exp(torch.special.entr(share).sum()).item()


def readout_r2(latent: Tensor, state: Tensor, most_rows: int = 1024) -> float:
    """R2 on unseen episodes of state (B, T, C) from latent (B, T, D), averaged over the columns that vary.

    Ridge regression with a Gaussian kernel, with and without a linear one, in closed form: frozen, non-linear, no
    training. Each column takes the kernel and the ridge that are best on the last third of the episodes it is fitted on.
    """
    half = len(latent) // 2
    if half == 0:  # one episode: nothing unseen
        return float("nan")
    z, s, z_test, s_test = (
        x.flatten(0, 1)[:: max(1, (half * latent.shape[1]) // most_rows)].double()
        for x in (latent[:half], state[:half], latent[half:], state[half:])
    )
    varies = (s.std(0) > 1e-6) & (s_test.std(0) > 1e-6)
    if not varies.any():
        return float("nan")
    s, s_test = s[:, varies], s_test[:, varies]
    z, z_test = ((x - z.mean(0)) / z.std(0).mean().clamp_min(1e-9) for x in (z, z_test))
    fitted = len(z) - len(z) // 3
    median = torch.cdist(z, z).median().clamp_min(1e-9)

    def predict(z: Tensor, s: Tensor, z_new: Tensor, width: Tensor, ridge: float, linear: float) -> Tensor:
        def kernel(b: Tensor) -> Tensor:
            return linear * b @ z.T / z.shape[1] + torch.exp(-((torch.cdist(b, z) / width) ** 2))

        centre = s.mean(0)
        eye = torch.eye(len(z), dtype=z.dtype, device=z.device)
        return kernel(z_new) @ torch.linalg.solve(kernel(z) + ridge * eye, s - centre) + centre

    choices = [
        (width * median, ridge, linear) for width in READOUT_WIDTHS for ridge in READOUT_RIDGES for linear in (0.0, 1.0)
    ]
    errors = [
        (predict(z[:fitted], s[:fitted], z[fitted:], *choice) - s[fitted:]).square().mean(0) for choice in choices
    ]
    best = torch.stack(errors).argmin(0)  # (C,)
    told = torch.empty_like(s_test)
    for i in best.unique().tolist():
        told[:, best == i] = predict(z, s[:, best == i], z_test, *choices[i])
    return (1 - (told - s_test).square().mean(0) / s_test.var(0)).mean().item()


def alarms(health: Mapping[str, float]) -> list[str]:
    """What is wrong, in words; empty for a healthy level."""
    checks = [
        (health["rank_share"] < MIN_RANK_SHARE, "effective rank is {effective_rank:.1f}, {rank_share:.0%} of what it could be"),
        (health["std"] < MIN_STD, "the latent's deviation is {std:.3f}: it is shrinking to a point"),
        (health["within_episode"] < MIN_WITHIN_EPISODE,
         "{within_episode:.1%} of the variance lies within episodes: only what never changes is encoded"),
        (health["readout_r2"] < MIN_READOUT, "the state can hardly be read out of it (R2 {readout_r2:.2f})"),
        (health["copy_last"] > MAX_COPY_LAST, "prediction is no better than no change (error ratio {copy_last:.2f})"),
    ]  # fmt: skip
    return [text.format(**health) for wrong, text in checks if wrong]
