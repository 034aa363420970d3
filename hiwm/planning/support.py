"""The cost of leaving the data: a search otherwise finds latents that its model predicts and that no state has."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.landmarks import nearest
from hiwm.planning.costs import Cost
from hiwm.planning.model import LevelModel
from hiwm.planning.rollout import Rollout

SAMPLE = 2000  # real latents from which the spacing is computed


class SupportCost(Cost):
    """How far a plan has left the real latents of the action bank, summed over its steps so far.

        weight * c / l * sum over steps of max(0, min over real latents r of |z - r| - margin),

    where l is the Euclidean length of a step, c its cost (see `LevelModel`), and `margin` the larger of l / 2 and twice the median spacing of the latents.
    A plan of H steps is compared with the real latents within 2 H l of its start, the only ones it can come near.

    Args:
        model: of the level; has an action bank.
        weight: with 1, a latent that is one step too far from the data costs as much as one step towards a whole observation.
    """

    def __init__(self, model: LevelModel, weight: float) -> None:
        assert model.bank is not None, "checked before"
        self.real, self.length = model.bank.start.unique(dim=0), model.step_length
        self.weight = weight * model.step_cost / self.length if self.length else 0.0  # 0: a collapsed level
        some = self.real[:: -(-len(self.real) // SAMPLE)]
        apart = (
            torch.cdist(some, self.real).topk(min(2, len(self.real)), largest=False).values[:, -1]
        )  # the nearest is the latent itself
        self.margin = (2 * apart.median()).clamp_min(0.5 * self.length)
        self.planned_from: Tensor | None = None  # start of the plans that `in_reach` is for

    def __call__(self, rollout: Rollout) -> Tensor:
        latents = rollout.latents
        if (
            self.planned_from is not rollout.start or self.horizon != latents.shape[2]
        ):  # one search evaluates many plans from the same start
            self.planned_from, self.horizon = rollout.start, latents.shape[2]
            self.in_reach = self._in_reach(rollout.start, 2 * self.horizon * self.length)
        away = [nearest(z.flatten(0, 1), self.real[rows])[0] for z, rows in zip(latents, self.in_reach, strict=True)]
        return self.weight * (torch.stack(away).view(latents.shape[:-1]) - self.margin).clamp_min(0).cumsum(-1)

    def _in_reach(self, start: Tensor, reach: float) -> list[Tensor]:
        """Indices of the real latents within reach of each start, (B, D); the nearest one counts in any case."""
        apart = torch.cdist(start, self.real)
        return [(row <= row.min().clamp_min(reach)).nonzero().squeeze(1) for row in apart]
