"""The cost of leaving the data: a search otherwise finds latents that its model predicts and that no state has."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.discrete import discrete_values, nearest_values
from hiwm.levels.distance import distance
from hiwm.levels.landmarks import nearest
from hiwm.levels.level import Level
from hiwm.planning.costs import Cost
from hiwm.planning.model import LevelModel
from hiwm.planning.rollout import Rollout

SPACING_SAMPLE = 2000  # real latents whose spacing is measured
AT_ONCE = 100  # of them at a time, to save memory


class SupportCost(Cost):
    """How far a plan has left the real latents of the action bank, summed over its steps so far.

        weight * c / l * sum over steps of max(0, min over real latents r of |z - r| - margin * l),

    where l is the Euclidean length of a step and c its cost (see `LevelModel`). The margin is at least twice the median spacing of
    the real latents. With `inputs_of`, latents are compared by the inputs they hold (`Encoder.read_inputs`), because a predicted state
    between two real ones, such as a button that is half on, may be embedded near a real one. |z - r|^2 is then |x - x_r|^2 over the inputs
    that are not discrete, plus the squared distance of each discrete input to the nearest of its own values: data need not contain
    every combination of these (see `hiwm.levels.discrete`).

    Only the real latents that are at most 2 H l farther from the start of a plan than the nearest one are compared, for the level's
    horizon H. A plan no longer than H l has its nearest real latents among these. On a GPU all are compared, because to choose
    would wait for it.

    Args:
        model: of the level; has an action bank.
        weight: with 1, a latent that is one step too far from the data costs as much as one step towards a whole observation.
        margin: steps from the real latents that cost nothing.
        inputs_of: the level, to compare the inputs that its latents hold; None: the latents.
    """

    def __init__(self, model: LevelModel, weight: float, margin: float = 0.5, inputs_of: Level | None = None) -> None:
        assert model.bank is not None, "checked before"
        self.level, length = inputs_of, model.step_length
        self.columns: tuple[Tensor, Tensor, Tensor] | None = None
        real = self._read(model.bank.start)
        if inputs_of is not None:
            with torch.no_grad():
                after = self._read(inputs_of.predict(model.bank.start, model.bank.actions[:, 0]))
            length = distance(after, real, p=2).mean().sqrt().item()
            self.columns = _columns(real)
        self.real, _ = self._split(real)
        self.real = self.real.unique(dim=0) if self.real.shape[1] else self.real[:1]
        self.weight = weight * model.step_cost / length if length else 0.0  # 0: a collapsed level
        self.reach = 2 * model.horizon * length
        self.margin = (2 * _spacing(self.real)).clamp_min(margin * length)
        #: the start of the last plans, its version, and what is real near each episode's
        self.near: tuple[Tensor, int, list[Tensor]] | None = None

    def __call__(self, rollout: Rollout) -> Tensor:
        return self.weight * (self._away(rollout) - self.margin).clamp_min(0).cumsum(-1)

    def _away(self, rollout: Rollout) -> Tensor:
        """Distance of every latent to the nearest real one, (B, S, H)."""
        points, off = self._split(self._read(rollout.latents))
        if rollout.start.device.type != "cpu":  # to choose real latents would wait for the device
            away = nearest(points.flatten(0, -2), self.real)[0]
        else:
            pairs = zip(points, self._near(rollout.start), strict=True)
            away = torch.cat([nearest(z.flatten(0, 1), real)[0] for z, real in pairs])
        away = away.view(points.shape[:-1])
        return away if off is None else (away.square() + off).sqrt()

    def _near(self, start: Tensor) -> list[Tensor]:
        """What is real near each start, (B, D); kept, because a search evaluates many plans from the same start."""
        version = 0 if start.is_inference() else start._version
        if self.near is None or self.near[0] is not start or self.near[1] != version:
            apart = torch.cdist(self._split(self._read(start))[0], self.real)
            self.near = start, version, [self.real[row <= row.min() + self.reach] for row in apart]
        return self.near[2]

    def _read(self, latent: Tensor) -> Tensor:
        """What is compared: the latents (..., D), or the inputs they hold, (..., X)."""
        inputs = latent if self.level is None else self.level.encoder.read_inputs(latent)
        assert inputs is not None, "checked before"
        return inputs

    def _split(self, read: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is compared as a whole, (..., O), and the squared distance of the discrete inputs to their values, (...)."""
        if self.columns is None:
            return read, None
        others, discrete, values = self.columns
        off, _ = nearest_values(read[..., discrete], values)
        return read[..., others], off.square().sum(-1)


def _columns(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Of inputs (N, X), the columns that are not discrete, (O,), those that are, (C,), and their values, (C, V); None if none is."""
    discrete, values = discrete_values(inputs)
    every = torch.arange(inputs.shape[1], device=inputs.device)
    return (every[~torch.isin(every, discrete)], discrete, values) if len(discrete) else None


def _spacing(points: Tensor) -> Tensor:
    """Median distance to the nearest other of the points (N, D), ()."""
    some, found = points[:: -(-len(points) // SPACING_SAMPLE)], min(2, len(points))  # the nearest is the point itself
    apart = [torch.cdist(part, points).topk(found, largest=False).values[:, -1] for part in some.split(AT_ONCE)]
    return torch.cat(apart).median()
