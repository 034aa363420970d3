"""The cost of leaving the data: a search otherwise finds latents that its model predicts and that no state has."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hiwm.heads.action_bank import mean_step
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
    the real latents. With `inputs_of`, latents are compared with the inputs they hold at full scale (`Encoder.rescale`): a predicted
    state between two real ones, such as a button that is half on, may be embedded near a real one.

    Only the real latents that are at most 2 H l farther from the start of a plan than the nearest one are compared, for the level's
    horizon H. A plan no longer than H l has its nearest real latents among these. On a GPU all are compared, because to choose
    would wait for it.

    Args:
        model: of the level; has an action bank.
        weight: with 1, a latent that is one step too far from the data costs as much as one step towards a whole observation.
        margin: steps from the real latents that cost nothing.
        inputs_of: the level, to compare the inputs that its latents hold too; None: latents as they are.
    """

    def __init__(self, model: LevelModel, weight: float, margin: float = 0.5, inputs_of: Level | None = None) -> None:
        assert model.bank is not None, "checked before"
        self.rescale: Callable[[Tensor], Tensor] = _as_it_is
        length = model.step_length
        if inputs_of is not None:
            self.rescale = inputs_of.encoder.rescale
            length = mean_step(inputs_of, model.bank, 2, rescale=True).sqrt().item()
        self.real = self.rescale(model.bank.start).unique(dim=0)
        self.weight = weight * model.step_cost / length if length else 0.0  # 0: a collapsed level
        self.reach = 2 * model.horizon * length
        self.margin = (2 * _spacing(self.real)).clamp_min(margin * length)
        #: the start of the last plans, its version, and the real latents near each episode's
        self.near: tuple[Tensor, int, list[Tensor]] | None = None

    def __call__(self, rollout: Rollout) -> Tensor:
        away = self._away(rollout).view(rollout.latents.shape[:-1])
        return self.weight * (away - self.margin).clamp_min(0).cumsum(-1)

    def _away(self, rollout: Rollout) -> Tensor:
        """Distance of every latent to the nearest real one, (B * S * H,)."""
        latents, start = self.rescale(rollout.latents), rollout.start
        if start.device.type != "cpu":  # to choose real latents would wait for the device
            return nearest(latents.flatten(0, -2), self.real)[0]
        return torch.cat(
            [nearest(z.flatten(0, 1), real)[0] for z, real in zip(latents, self._near(start), strict=True)]
        )

    def _near(self, start: Tensor) -> list[Tensor]:
        """Real latents near each start, (B, D); kept, because a search evaluates many plans from the same start."""
        version = 0 if start.is_inference() else start._version
        if self.near is None or self.near[0] is not start or self.near[1] != version:
            apart = torch.cdist(self.rescale(start), self.real)
            self.near = start, version, [self.real[row <= row.min() + self.reach] for row in apart]
        return self.near[2]


def _as_it_is(latent: Tensor) -> Tensor:
    return latent


def _spacing(points: Tensor) -> Tensor:
    """Median distance to the nearest other of the points (N, D), ()."""
    some, found = points[:: -(-len(points) // SPACING_SAMPLE)], min(2, len(points))  # the nearest is the point itself
    apart = [torch.cdist(part, points).topk(found, largest=False).values[:, -1] for part in some.split(AT_ONCE)]
    return torch.cat(apart).median()
