"""Temporal distance: the distance between two latents is a discounted number of steps from one to the other."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.checks import at_least, within
from hiwm.levels.distance import distance
from hiwm.levels.distributed import gather_over_processes, random_rows
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer


class TemporalDistance(Regularizer):
    """Expectile regression of |z_t - z_g| on 1 + discount * |y_t+1 - y_g|, where y are latents of the target encoder.

    HILP (Park et al. 2024, arXiv 2402.15567), with the expectile loss of implicit Q-learning (Kostrikov et al. 2021, arXiv
    2110.06169): the value of a state for a goal is minus their distance, learned by temporal differences without actions.
    Here the distance |.| is the sum of absolute differences (see `hiwm.levels.distance`), where HILP has the Euclidean norm.
    Goals are the next state, one step away, and random states of the batch; one that happens to be the state itself counts as
    a step away, where HILP has 0. The distance is symmetric, so it suits worlds in which steps can be undone.

    Args:
        discount: per step; n steps come out as (1 - discount^n) / (1 - discount).
        expectile: 0.5 learns the mean over the steps that the data take, 1 the shortest.
        goals: goals of each state, the next state included.
    """

    metric = True

    def __init__(self, *, discount: float = 0.98, expectile: float = 0.9, goals: int = 8) -> None:
        super().__init__()
        at_least(1, goals=goals)
        within("[0, 1]", discount=discount)
        within("(0, 1)", expectile=expectile)
        self.discount, self.expectile, self.goals = discount, expectile, goals

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        now, onward = output.latent[:, :-1].flatten(0, 1), output.target.flatten(0, 1).detach()  # (N, D)
        goals, first = gather_over_processes(output.latent[:, 1:].flatten(0, 1))
        slow_goals, _ = gather_over_processes(onward)
        own = torch.arange(first, first + len(now), device=now.device).unsqueeze(1)
        rows = torch.cat([own, random_rows(now, self.goals - 1, generator)], 1)  # (N, G)
        left = self.discount * distance(onward.unsqueeze(1), slow_goals[rows], p=1)  # 0 for the own next state
        error = 1 + left - distance(now.unsqueeze(1), goals[rows], p=1)
        weight = torch.where(error < 0, self.expectile, 1 - self.expectile)
        return (weight * error.square()).mean()
