"""How wrong an ensemble is where its members disagree, measured on held-out episodes after training.

Members that saw much the same data agree more than they are right. One factor for every step ahead mends the size of it,

    E |error|^2 = scale_h * disagreement_h,     disagreement_h = sum over D of the members' variance at step h,

(variance scaling; Laves et al. 2020, arXiv 2006.13092), so that disagreement has the unit of a squared distance. It is
fitted on half of the held-out episodes; how well it holds is measured on the other half.

Of a Gaussian truth and K Gaussian members about one mean, the error over the members' deviation is Student's t with K - 1
degrees of freedom times sqrt(scale), for K members tell their variance only roughly; the scale is that distribution's most
likely one. The plain ratio of mean squared error to mean disagreement estimates the same, but a few jumps that no member
could foresee (a teleporter) decide it: of what is doubtful everywhere alike, disagreement cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr
from scipy.stats import t as student_t
from torch import Tensor

from hiwm.data.store import Trajectories
from hiwm.levels.level import Level
from hiwm.levels.parts import Predictor
from hiwm.planning.rollout import follow
from hiwm.tensors import load_tensors

NOMINAL = (0.5, 0.8, 0.9, 0.95)
STEPS = 20  # most steps ahead
SHARE = 0.75  # of an episode that they may take, so that the longest rollouts too begin at many moments
WINDOWS = 4096  # most rollouts of each half
ROUNDS = 200  # of the fit; it settles in about fifty
TINY = 1e-12  # of a latent that never changes, error and variance are rounding errors


@dataclass(frozen=True)
class Calibration:
    """What the disagreement of a level's members is worth. H steps ahead; N nominal shares, `NOMINAL`.

    Coverage is told of two kinds of regions. *Intervals*, of one latent dimension, by that Student's t: Gaussian errors are in
    them exactly as often as they should, however the dimensions depend on one another, for it is the mean over them that is
    counted. *Balls*, of the whole latent, whose radius is a quantile of the fitted half (split conformal): they need no shape
    of the errors, only moments that are alike, which those of one episode are only in part: the check on the other half tells.

    Args:
        scale: expected squared error over disagreement, (H,).
        radius: of the balls, squared, over the disagreement, (H, N).
        ratio: mean squared error on the other half over what the scale expects; 1 is right, (H,).
        spearman: rank correlation of disagreement and squared error there, (H,).
        raw: share of errors there within the intervals of the members' own variance, (H, N).
        scaled: the same with the variance scaled, (H, N).
        conformal: share of errors there within the balls, (H, N).
    """

    scale: Tensor
    radius: Tensor
    ratio: Tensor
    spearman: Tensor
    raw: Tensor
    scaled: Tensor
    conformal: Tensor

    @property
    def steps(self) -> int:
        """Steps ahead H that it was fitted for."""
        return len(self.scale)

    def doubt(self, variance: Tensor) -> Tensor:
        """Expected squared error of the most uncertain step so far, (..., H, D) -> (..., H).

        Not the sum over the steps, which would tax a detour; not the last step's, for members that parted may meet again
        at a wall.
        """
        expected = self.scale[: variance.shape[-2]] * variance.sum(-1)
        return expected.cummax(-1).values

    def save(self, path: Path) -> None:
        """One safetensors file."""
        save_file({field.name: getattr(self, field.name).contiguous() for field in fields(self)}, path)

    @staticmethod
    def load(path: Path, device: str = "cpu") -> Calibration:
        """What `save` wrote."""
        return Calibration(**load_tensors(path, device=device))


@dataclass(frozen=True)
class Foretold:
    """What W rollouts said of one step ahead, against what came.

    Args:
        error: squared error of the members' mean, (W, D).
        variance: of the members, (W, D).
    """

    error: Tensor
    variance: Tensor


def fit_calibration(level: Level, latents: Trajectories, period: int, validation: float) -> Calibration | None:
    """Calibrate an ensemble on the held-out episodes; None for other predictors, and where those are too few or short.

    Args:
        level: the level, in eval mode.
        latents: its cache, columns `latent` and `action`.
        period: environment steps of one of its steps.
        validation: share of the episodes held out.
    """
    steps = steps_ahead(level.predictor, latents, period, validation)
    if not steps:
        return None
    halves = latents.split(validation)[1].split(0.5)
    fitted, checked = (_foretell(level, half, period, steps) for half in halves)
    return calibrate(fitted, checked, level.predictor.num_members)


def steps_ahead(predictor: Predictor, episodes: Trajectories, period: int, validation: float) -> int:
    """Steps ahead a predictor can be calibrated for; 0 where it is no ensemble, or the held-out episodes too few or short."""
    held_out = episodes.split(validation)[1]
    if predictor.num_members < 2 or len(held_out.ep_len) < 2:
        return 0
    usable = min(SHARE * (np.median(half.ep_len) - 1) for half in held_out.split(0.5))
    return max(0, min(STEPS, int(usable) // period - predictor.context + 1))


def check_disagreement(k: int, weight: float, predictor: Predictor, steps: int, horizon: int) -> None:
    """Refuse a weight of level k's disagreement that there is no calibration for, one of `steps` steps ahead, 0 for none."""
    where = f"planner.disagreement[{k}] is {weight}"
    if predictor.num_members < 2:
        raise ValueError(
            f"{where}; allowed: 0, for the predictor of level {k}, {type(predictor).__name__}, is no ensemble. Train with "
            f"predictor@levels.level{k}.predictor=ensemble"
        )
    if not steps:
        raise ValueError(
            f"{where}; allowed: 0, for the ensemble of level {k} is not calibrated. `hiwm train` again, with two or more "
            "held-out episodes (dataset.validation) that hold one of its steps"
        )
    if horizon > steps:
        raise ValueError(
            f"planner.horizon[{k}] is {horizon}; allowed with planner.disagreement[{k}] {weight}: at most {steps}, the steps "
            f"ahead that level {k} is calibrated for"
        )


def calibrate(fitted: Sequence[Foretold], checked: Sequence[Foretold], num_members: int) -> Calibration:
    """Fit on one half, measure on the other; an entry a step ahead."""
    freedom = num_members - 1
    widths = student_t.ppf((1 + np.array(NOMINAL)) / 2, freedom) ** 2
    steps = []
    for seen, new in zip(fitted, checked, strict=True):
        differ = seen.variance > TINY
        scale = _most_likely_scale(seen.error[differ] / seen.variance[differ], freedom)
        radius = _quantiles(seen.error.sum(-1) / seen.variance.sum(-1).clamp_min(TINY))
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
    """Of squared errors over variances, (N,), were their roots t distributed; by expectation maximisation."""
    scale = ratios.mean()
    for _ in range(ROUNDS):
        scale = ((freedom + 1) * ratios / (freedom + ratios / scale.clamp_min(TINY))).mean()
    return scale


def _quantiles(scores: Tensor) -> Tensor:
    """Split-conformal quantiles of (W,) at `NOMINAL`, (N,): a new score is below with at least that probability, of scores that are exchangeable."""
    number = len(scores)
    ranks = [min(number, math.ceil((number + 1) * share)) for share in NOMINAL]
    return scores.sort().values[[rank - 1 for rank in ranks]]


@torch.no_grad()
def _foretell(level: Level, episodes: Trajectories, period: int, steps: int) -> list[Foretold]:
    """Every step of evenly spaced rollouts, open loop after as many observed latents as the predictor takes.

    A rollout goes on to the end of its episode at most, so that of later steps there are fewer.
    """
    predictor, seen = level.predictor, level.predictor.context
    moments = np.arange(seen + steps) * period
    starts, ends = np.concatenate(
        [
            np.stack([offset + np.arange(count), np.full(count, offset + length)], 1)
            for offset, length in zip(episodes.ep_offset, episodes.ep_len, strict=True)
            if (count := max(0, length - seen * period))
        ]
    ).T
    chosen = np.linspace(0, len(starts) - 1, min(WINDOWS, len(starts))).round().astype(np.int64)
    rows = starts[chosen, None] + moments
    there = rows < ends[chosen, None]
    rows = np.minimum(rows, ends[chosen, None] - 1)
    device = predictor.scale.device
    latent = torch.from_numpy(episodes.column("latent")[rows]).to(device)
    action = torch.from_numpy(episodes.column("action")[rows[:, :-1]]).to(device)
    state = predictor.remember(latent[:, :seen], action[:, : seen - 1])
    foretold = follow(predictor, latent[:, seen - 1], state, lambda h, _: action[:, seen - 1 + h], steps)
    assert foretold.variance is not None, "checked: there are members"
    error, variance = (foretold.latents - latent[:, seen:]).double().square(), foretold.variance.double()
    valid = torch.from_numpy(there[:, seen:]).to(device)
    return [Foretold(error[valid[:, h], h], variance[valid[:, h], h]) for h in range(steps)]
