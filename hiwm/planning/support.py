"""The cost of leaving the data: a search otherwise finds latents that its model predicts and that no state has."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.planning.costs import Cost
from hiwm.planning.model import LevelModel
from hiwm.planning.rollout import Rollout

MARGIN = 2.0  # times the median spacing of the real latents: this near counts as real
ROWS = 10_000  # predicted latents that are compared with the real ones at once


class SupportCost(Cost):
    """How far a plan has left the real latents of the action bank, summed over its steps so far.

        weight * c / l * sum over steps of max(0, min over real latents r of |z - r| - margin),

    where l is the Euclidean length of a step, c its cost (see `LevelModel`), and `margin` is twice the median distance of a real latent from the nearest other one.

    Args:
        model: of the level; has an action bank.
        weight: with 1, a latent that is one step too far from the data costs as much as a step. For a metric level that is the number of steps.
    """

    def __init__(self, model: LevelModel, weight: float) -> None:
        assert model.bank is not None, "checked before"
        self.real, self.weight = model.bank.start.unique(dim=0), weight * model.step_cost / model.step_length
        apart = torch.cdist(self.real, self.real).fill_diagonal_(torch.inf).amin(1)
        self.margin = MARGIN * apart.median().nan_to_num(posinf=0.0)  # inf: all latents are the same

    def __call__(self, rollout: Rollout) -> Tensor:
        found = [torch.cdist(block, self.real).amin(-1) for block in rollout.latents.flatten(0, -2).split(ROWS)]
        return self.weight * (torch.cat(found).view(rollout.latents.shape[:-1]) - self.margin).clamp_min(0).cumsum(-1)
