"""The cost of leaving the data: a search otherwise finds latents that its model predicts and that no state has."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.planning.costs import Cost
from hiwm.planning.model import LevelModel
from hiwm.planning.rollout import Rollout

MARGIN = 2.0  # times the median spacing of the real latents: this near counts as real


class SupportCost(Cost):
    """How far a plan has left the real latents of the action bank, summed over its steps so far.

        weight * sum over steps of max(0, min over real latents r of |z - r| - margin) * step,

    where `margin` is twice the median distance of a real latent from its nearest neighbour, and `step` the typical length of one
    step. A plan that is one step outside of the data at one of its steps thus costs as much as a distance of one step to the target, times the
    weight.

    Args:
        model: of the level; has an action bank.
        weight: see above.
    """

    def __init__(self, model: LevelModel, weight: float) -> None:
        assert model.bank is not None, "checked before"
        self.real, self.weight = model.bank.start, weight * model.step_length
        apart = torch.cdist(self.real, self.real).fill_diagonal_(torch.inf)
        self.margin = MARGIN * apart.amin(1).median()

    def __call__(self, rollout: Rollout) -> Tensor:
        latents = rollout.latents
        apart = torch.cdist(latents.flatten(0, -2), self.real).amin(-1).view(latents.shape[:-1])
        return self.weight * (apart - self.margin).clamp_min(0).cumsum(-1)
