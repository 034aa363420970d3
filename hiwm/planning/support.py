"""The cost of leaving the data: a search otherwise finds latents that its model predicts and that no state has."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.discrete import discrete_values
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
        real = self._read(model.bank.start)
        self.discrete: dict[int, Tensor] = {}
        if inputs_of is not None:
            self.discrete = discrete_values(real)
            with torch.no_grad():
                after = self._read(inputs_of.predict(model.bank.start, model.bank.actions[:, 0]))
            length = (after - real).square().sum(-1).mean().sqrt().item()
        self.others = [k for k in range(real.shape[1]) if k not in self.discrete]
        self.real = real[:, self.others].unique(dim=0) if self.others else real[:1, :0]
        self.weight = weight * model.step_cost / length if length else 0.0  # 0: a collapsed level
        self.reach = 2 * model.horizon * length
        self.margin = (2 * _spacing(self.real)).clamp_min(margin * length)
        #: the start of the last plans, its version, and the real latents near each episode's
        self.near: tuple[Tensor, int, list[Tensor]] | None = None

    def __call__(self, rollout: Rollout) -> Tensor:
        return self.weight * (self._away(rollout) - self.margin).clamp_min(0).cumsum(-1)

    def _away(self, rollout: Rollout) -> Tensor:
        """Distance of every latent to the nearest real one, (B, S, H)."""
        read = self._read(rollout.latents)
        points, start = read[..., self.others], rollout.start
        if start.device.type != "cpu":  # to choose real latents would wait for the device
            away = nearest(points.flatten(0, -2), self.real)[0]
        else:
            away = torch.cat(
                [nearest(z.flatten(0, 1), real)[0] for z, real in zip(points, self._near(start), strict=True)]
            )
        away = away.view(read.shape[:-1])
        if not self.discrete:
            return away
        off = [(read[..., k : k + 1] - values).abs().amin(-1) for k, values in self.discrete.items()]
        return (away.square() + torch.stack(off).square().sum(0)).sqrt()

    def _near(self, start: Tensor) -> list[Tensor]:
        """Real latents near each start, (B, D); kept, because a search evaluates many plans from the same start."""
        version = 0 if start.is_inference() else start._version
        if self.near is None or self.near[0] is not start or self.near[1] != version:
            apart = torch.cdist(self._read(start)[:, self.others], self.real)
            self.near = start, version, [self.real[row <= row.min() + self.reach] for row in apart]
        return self.near[2]

    def _read(self, latent: Tensor) -> Tensor:
        """What is compared: the inputs that latents hold, or the latents."""
        inputs = None if self.level is None else self.level.encoder.read_inputs(latent)
        return latent if inputs is None else inputs


def _spacing(points: Tensor) -> Tensor:
    """Median distance to the nearest other of the points (N, D), ()."""
    some, found = points[:: -(-len(points) // SPACING_SAMPLE)], min(2, len(points))  # the nearest is the point itself
    apart = [torch.cdist(part, points).topk(found, largest=False).values[:, -1] for part in some.split(AT_ONCE)]
    return torch.cat(apart).median()
