"""Calibrates an ensemble's disagreement against its errors, on held-out episodes after training.

The ensemble variance usually underestimates the squared error, because the members were trained on similar data. One factor
per step ahead corrects it,

    E |error|^2 = scale_h * disagreement_h,     disagreement_h = sum over D of the members' variance at step h,

(variance scaling; Laves et al. 2020, arXiv 2006.13092), so that disagreement has the unit of a squared distance. The factors
are fitted on half of the held-out episodes and tested on the other half.

If the true latent and the predictions of K members are Gaussian about one mean, the error over the members' standard deviation follows Student's t with
K - 1 degrees of freedom times sqrt(scale), because K members estimate their variance only roughly. The scale maximises the
likelihood under that distribution. The plain ratio of mean squared error to mean disagreement estimates the same scale. But a few jumps
that no member could predict (a teleporter) dominate that ratio, and disagreement cannot show such jumps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from scipy.stats import t as student_t
from torch import Tensor

from hiwm.data.store import Trajectories
from hiwm.heads.head import Head
from hiwm.levels.level import Level
from hiwm.levels.parts import Predictor
from hiwm.open_loop import unroll

NOMINAL = (0.5, 0.8, 0.9, 0.95)
STEPS = 20  # largest number of steps ahead
# largest share of an episode that those steps take, so that the longest rollouts still have many starts
SHARE = 0.75
WINDOWS = 4096  # largest number of rollouts of each half
ROUNDS = 200  # rounds of the fit, which converges in about fifty
TINY = 1e-12  # where a latent never changes, error and variance are rounding errors


class Calibration(Head):
    """Expected errors of an ensemble, given its disagreement, for H steps ahead, and their coverage at N shares, `NOMINAL`.

    Coverage is measured for two kinds of regions. *Intervals* hold one latent dimension and use that Student's t. They hold
    Gaussian errors exactly as often as they should, even if dimensions depend on one another, because coverage is the mean over
    dimensions. *Balls* hold the whole latent; their radius is a quantile of the fitted half (split conformal). Balls assume no
    shape of the errors, only that steps are exchangeable. Steps of one episode are exchangeable only in part; the other half
    measures the effect.

    Args:
        scale: expected squared error over disagreement, (H,).
        radius: squared radius of the balls over the disagreement, (H, N).
        ratio: mean squared error on the other half over the expected one, (H,); ideally 1.
        spearman: rank correlation of disagreement and squared error on the other half, (H,).
        raw: share of errors on the other half within the intervals of the members' own variance, (H, N).
        scaled: the same with the scaled variance, (H, N).
        conformal: share of errors on the other half within the balls, (H, N).
    """

    scale: Tensor
    radius: Tensor
    ratio: Tensor
    spearman: Tensor
    raw: Tensor
    scaled: Tensor
    conformal: Tensor

    def __init__(
        self,
        *,
        scale: Tensor,
        radius: Tensor,
        ratio: Tensor,
        spearman: Tensor,
        raw: Tensor,
        scaled: Tensor,
        conformal: Tensor,
    ) -> None:
        super().__init__()
        tensors = {"scale": scale, "radius": radius, "ratio": ratio, "spearman": spearman}
        tensors |= {"raw": raw, "scaled": scaled, "conformal": conformal}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @property
    def steps(self) -> int:
        """Number of steps ahead H for which it was fitted."""
        return len(self.scale)

    def expected_error(self, variance: Tensor) -> Tensor:
        """Expected squared error of the most uncertain step so far, (..., H, D) -> (..., H).

        The sum over the steps would penalise a detour. The last step alone would miss members that diverged and met again at a wall.
        """
        expected = self.scale[: variance.shape[-2]] * variance.sum(-1)
        return expected.cummax(-1).values


@dataclass(frozen=True)
class PredictionErrors:
    """Errors of W rollouts at one step ahead.

    Args:
        error: squared error of the mean of the members, (W, D).
        variance: variance of the members, (W, D).
    """

    error: Tensor
    variance: Tensor


def fit_calibration(level: Level, latents: Trajectories, period: int, validation: float) -> Calibration | None:
    """Calibrate an ensemble on the held-out episodes.

    Args:
        level: level in eval mode.
        latents: cached latents and actions of the level, columns `latent` and `action`.
        period: environment steps in one step of the level.
        validation: share of the episodes held out.

    Returns:
        None for a predictor that is not an ensemble, and if the held-out episodes are too few or too short.
    """
    steps = calibrated_steps(level.predictor, latents, period, validation)
    if not steps:
        return None
    halves = latents.split(validation)[1].split(0.5)
    fitted, checked = (_prediction_errors(level, half, period, steps) for half in halves)
    return calibrate(fitted, checked, level.predictor.num_members)


def calibrated_steps(predictor: Predictor, episodes: Trajectories, period: int, validation: float) -> int:
    """Count the steps ahead for which a predictor can be calibrated; arguments as in `fit_calibration`.

    Returns:
        0 if the predictor is not an ensemble, or the held-out episodes are too few or too short.
    """
    held_out = episodes.split(validation)[1]
    if predictor.num_members < 2 or len(held_out.ep_len) < 2:
        return 0
    usable = min(SHARE * (np.median(half.ep_len) - 1) for half in held_out.split(0.5))
    return max(0, min(STEPS, int(usable) // period - predictor.context + 1))


def calibrate(fitted: Sequence[PredictionErrors], checked: Sequence[PredictionErrors], num_members: int) -> Calibration:
    """Fit on one half and measure on the other; each half has one entry per step ahead."""
    freedom = num_members - 1
    widths = student_t.ppf((1 + np.array(NOMINAL)) / 2, freedom) ** 2
    steps = []
    for old, new in zip(fitted, checked, strict=True):
        differ = old.variance > TINY
        scale = _most_likely_scale(old.error[differ] / old.variance[differ], freedom)
        radius = _quantiles(old.error.sum(-1) / old.variance.sum(-1).clamp_min(TINY))
        error, disagreement = new.error.sum(-1), new.variance.sum(-1)  # (W,)
        steps.append(
            {
                "scale": scale,
                "radius": radius,
                "ratio": error.sum() / (scale * disagreement.sum()).clamp_min(TINY),
                "spearman": torch.tensor(np.asarray(spearmanr(disagreement.cpu(), error.cpu()))[0]),
                "raw": torch.stack([(new.error <= width * new.variance).double().mean() for width in widths]),
                "scaled": torch.stack(
                    [(new.error <= width * scale * new.variance).double().mean() for width in widths]
                ),
                "conformal": (error.unsqueeze(1) <= radius * disagreement.unsqueeze(1)).double().mean(0),
            }
        )
    device = fitted[0].error.device
    return Calibration(**{name: torch.stack([step[name].to(device).float() for step in steps]) for name in steps[0]})


def _most_likely_scale(ratios: Tensor, freedom: int) -> Tensor:
    """Scale of squared errors over variances, (N,), whose roots follow Student's t; by expectation maximisation."""
    scale = ratios.mean()
    for _ in range(ROUNDS):
        scale = ((freedom + 1) * ratios / (freedom + ratios / scale.clamp_min(TINY))).mean()
    return scale


def _quantiles(scores: Tensor) -> Tensor:
    """Split-conformal quantiles of scores (W,) at `NOMINAL`, (N,).

    A new score is below a quantile with at least the nominal probability, if all scores are exchangeable.
    """
    number = len(scores)
    ranks = [min(number, math.ceil((number + 1) * share)) for share in NOMINAL]
    return scores.sort().values[[rank - 1 for rank in ranks]]


@torch.no_grad()
def _prediction_errors(level: Level, episodes: Trajectories, period: int, steps: int) -> list[PredictionErrors]:
    """Errors at every step of open-loop rollouts with evenly spaced starts, each after a context of real latents.

    A rollout ends with its episode, so that later steps have fewer entries.
    """
    predictor, context = level.predictor, level.predictor.context
    moments = np.arange(context + steps) * period
    starts, ends = np.concatenate(
        [
            np.stack([offset + np.arange(count), np.full(count, offset + length)], 1)
            for offset, length in zip(episodes.ep_offset, episodes.ep_len, strict=True)
            if (count := max(0, length - context * period))
        ]
    ).T
    chosen = np.linspace(0, len(starts) - 1, min(WINDOWS, len(starts))).round().astype(np.int64)
    rows = starts[chosen, None] + moments
    within = rows < ends[chosen, None]
    rows = np.minimum(rows, ends[chosen, None] - 1)
    device = predictor.scale.device
    latent = torch.from_numpy(episodes.column("latent")[rows]).to(device)
    action = torch.from_numpy(episodes.column("action")[rows[:, :-1]]).to(device)
    state = predictor.remember(latent[:, :context], action[:, : context - 1])
    present = context - 1
    _, latents, variance = unroll(predictor, latent[:, present], state, lambda h, _: action[:, present + h], steps)
    assert variance is not None, "the caller checks that there are members"
    error, variance = (latents - latent[:, context:]).double().square(), variance.double()
    valid = torch.from_numpy(within[:, context:]).to(device)
    return [PredictionErrors(error[valid[:, h], h], variance[valid[:, h], h]) for h in range(steps)]
