"""Collapse, watched while training: what a level's latent keeps of the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hiwm.levels.clip import Clip
from hiwm.levels.level import Level

# Alarm thresholds, far from any healthy stack seen here (effective rank share 0.3 to 1, within-episode share 0.6 to 1,
# copy-last ratio below 0.3).
MIN_RANK_SHARE = 0.1
MIN_STD = 0.1
MIN_WITHIN_EPISODE = 0.05
MAX_COPY_LAST = 0.9
MIN_READOUT = 0.2


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
def diagnose(level: Level, clip: Clip, episodes: Episodes) -> dict[str, float]:
    """Health of a level on held-out data.

    Args:
        level: the level, in eval mode.
        clip: windows to predict.
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
    features = level.features(clip)
    return {
        "effective_rank": rank,
        "rank_share": 1.0 if most == 1 else min(1.0, (rank - 1) / (most - 1)),
        "std": rows.std(0).mean().item(),
        "within_episode": (latent.var(1).sum(-1).mean() / rows.var(0).sum().clamp_min(1e-12)).item(),
        "copy_last": ratio_to_copy_last(features.predicted, features.latent),
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


def readout_r2(latent: Tensor, state: Tensor, most_rows: int = 1024, ridge: float = 1e-3) -> float:
    """R2 on unseen windows of state (B, T, C) from latent (B, T, D), averaged over the columns that vary.

    Ridge regression with a Gaussian kernel at the median distance, in closed form: frozen, non-linear, no training.
    """
    half = len(latent) // 2
    if half == 0:  # one episode: nothing unseen
        return float("nan")
    rows = [x.flatten(0, 1)[:: max(1, (half * latent.shape[1]) // most_rows)].double() for x in
            (latent[:half], state[:half], latent[half:], state[half:])]  # fmt: skip
    z, s, z_test, s_test = rows
    varies = (s.std(0) > 1e-6) & (s_test.std(0) > 1e-6)
    if not varies.any():
        return float("nan")
    s, s_test = s[:, varies], s_test[:, varies]
    width = torch.cdist(z, z).median().clamp_min(1e-9)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-((torch.cdist(a, b) / width) ** 2))

    centre = s.mean(0)
    weights = torch.linalg.solve(kernel(z, z) + ridge * torch.eye(len(z), dtype=z.dtype, device=z.device), s - centre)
    residual = (kernel(z_test, z) @ weights + centre - s_test).square().mean(0)
    return (1 - residual / s_test.var(0)).mean().item()


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
