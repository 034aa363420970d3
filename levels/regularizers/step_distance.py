"""Step distance: the distance between two latents is the number of steps from one to the other."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.checks import at_least, within
from hiwm.levels.distance import distance
from hiwm.levels.distributed import gather_over_processes, random_rows
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer

NEAR = 0.1  # steps; bounds the logarithm and its slope where two states have one latent


class StepDistance(Regularizer):
    """Spread random latents as far as steps of length at most one allow.

        strictness * mean of max(0, |z_t+1 - z_t| - 1)^2  -  mean of log(|z_i - z_j| + 0.1) over random states i, j of the batch

    A distance by which no step is longer than one is at most the number of steps of the shortest path, and the largest such
    distance is that number (quasimetric reinforcement learning, Wang et al. 2023, arXiv 2304.01203). Here the distance is the
    sum of absolute differences (see `hiwm.levels.distance`), the weight of the constraint is fixed instead of a Lagrange
    multiplier, and the spread is measured by the logarithm of the distance, where QRL has a softplus. The distance is
    symmetric, so it suits worlds in which steps can be undone.

    Args:
        strictness: weight of steps that are longer than one; the larger, the nearer is the distance to the number of steps.
        pairs: random states that each state is spread from.
    """

    metric = True

    def __init__(self, *, strictness: float = 30.0, pairs: int = 8) -> None:
        super().__init__()
        at_least(1, pairs=pairs)
        within("[0, inf)", strictness=strictness)
        self.strictness = strictness
        self.pairs = pairs

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        latent = output.latent
        too_long = (distance(latent[:, 1:], latent[:, :-1], p=1) - 1).clamp_min(0)
        rows = latent.flatten(0, 1)
        everywhere, _ = gather_over_processes(rows)
        spread = distance(rows.unsqueeze(1), everywhere[random_rows(rows, self.pairs, generator)], p=1)
        return self.strictness * too_long.square().mean() - (spread + NEAR).log().mean()
