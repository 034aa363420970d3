"""Step distance: the distance between two latents is the number of steps from one to the other."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.distributed import gather_over_processes, uniform_rows
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer

NEAR = 0.1  # steps; below it, spreading two states gains nothing more


class StepDistance(Regularizer):
    """Spread random latents as far as steps of length at most one allow.

        strictness * mean of max(0, |z_t+1 - z_t| - 1)^2  -  mean of log(|z_i - z_j| + 0.1) over random states i, j of the batch

    A distance that no step exceeds is at most the number of steps of the shortest path, and the largest such distance is that
    number: quasimetric reinforcement learning (Wang et al. 2023, arXiv 2304.01203, section 4), here with the
    Euclidean distance of the latents, a fixed weight in place of a Lagrange multiplier, and neither target network nor
    discount. The logarithm spreads near states too: with the mean distance itself, the latents of a maze stretch
    along few dimensions. Maximum variance unfolding (Weinberger and Saul 2006) does the same to neighbours in space. The
    distance is symmetric, so it suits worlds in which steps can be undone.

    Args:
        strictness: weight of steps that are longer than one; the larger, the nearer is the distance to the number of steps.
        pairs: random states that each state is spread from.
    """

    def __init__(self, *, strictness: float = 30.0, pairs: int = 8) -> None:
        super().__init__()
        self.strictness = strictness
        self.pairs = pairs

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        latent = output.latent
        too_long = (_distance(latent[:, 1:], latent[:, :-1]) - 1).clamp_min(0)
        rows = latent.flatten(0, 1)
        everywhere, _ = gather_over_processes(rows)
        others = (uniform_rows(len(rows), self.pairs, generator) * len(everywhere)).long()
        spread = _distance(rows.unsqueeze(1), everywhere[others])
        return self.strictness * too_long.square().mean() - (spread + NEAR).log().mean()


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1).add(1e-8).sqrt()  # the root has no gradient at 0
