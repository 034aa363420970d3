"""The cost of leaving the data: a search otherwise finds latents that its model predicts and that no state has."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.landmarks import nearest
from hiwm.planning.costs import Cost
from hiwm.planning.model import LevelModel
from hiwm.planning.rollout import Rollout


class SupportCost(Cost):
    """How far a plan has left the real latents of the action bank, summed over its steps so far.

        weight * c / l * sum over steps of max(0, min over real latents r of |z - r| - margin),

    where l is the Euclidean length of a step, c its cost (see `LevelModel`), and `margin` the larger of l / 2 and twice the median spacing of the latents.

    Args:
        model: of the level; has an action bank.
        weight: with 1, a latent that is one step too far from the data costs as much as one step towards a whole observation.
    """

    def __init__(self, model: LevelModel, weight: float) -> None:
        assert model.bank is not None, "checked before"
        self.real, length = model.bank.start.unique(dim=0), model.step_length
        self.weight = weight * model.step_cost / length if length else 0.0  # 0: a collapsed level
        apart = torch.cdist(self.real, self.real).fill_diagonal_(torch.inf).amin(1)
        self.margin = (2 * apart.median()).clamp_min(0.5 * length)

    def __call__(self, rollout: Rollout) -> Tensor:
        away, _ = nearest(rollout.latents.flatten(0, -2), self.real)
        return self.weight * (away.view(rollout.latents.shape[:-1]) - self.margin).clamp_min(0).cumsum(-1)
