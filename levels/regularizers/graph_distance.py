"""Graph distance: the distance between two latents is the length of the shortest path that the data know."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from hiwm.checks import at_least, within
from hiwm.levels.distance import distance
from hiwm.levels.distributed import average_over_processes, gather_over_processes, random_rows
from hiwm.levels.landmarks import farthest_points, nearest
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer

CANDIDATES = 20_000  # latents of the level below from which the landmarks are chosen
MAX_WEIGHT = 10.0
APART = -1  # in place of a number of steps: no path leads from one landmark to the other


class GraphDistance(Regularizer):
    """Fit |z_i - z_j|, of random states i, j of the batch, to the steps S between the landmarks they are nearest to.

        strictness * mean of max(0, |z_t+1 - z_t| - 1)^2  +  weighted mean of (|z_i - z_j| - S)^2 / (S + 1)

    The landmarks are latents of the level below. An edge joins two of them if a step of the data leads from near the one to near the other, and S
    is the number of edges on the shortest path, in the direction in which it is shorter. So it suits worlds in which steps can be undone. Isomap (Tenenbaum et al. 2000) embeds such distances; here an
    encoder learns the embedding, under the sum of absolute differences, which holds the paths of a tree (see
    `hiwm.levels.distance`), and planning needs no graph. Pairs that no path joins are left out. The weight of a pair is inverse to the number of states
    near the landmark of state i, and at most 10 times the average: a dead end that the data seldom visit would otherwise be embedded a few steps off, and plans would be trapped there.

    Args:
        inputs: shape of one step of every input; only a latent of the level below.
        landmarks: number of landmarks M.
        windows: windows of the data whose steps join the landmarks.
        strictness: weight of steps that are longer than one.
        pairs: random states that each state is compared with.
    """

    metric = True
    landmarks: Tensor
    steps: Tensor
    weight: Tensor

    def __init__(
        self,
        *,
        inputs: Mapping[str, tuple[int, ...]],
        landmarks: int = 1000,
        windows: int = 50_000,
        strictness: float = 1.0,
        pairs: int = 8,
    ) -> None:
        super().__init__()
        if tuple(inputs) != ("latent",):
            raise ValueError(
                f"the level reads {', '.join(inputs)}; expected the latent of a level below, whose states become the landmarks"
            )
        at_least(1, landmarks=landmarks, windows=windows, pairs=pairs)
        within("[0, inf)", strictness=strictness)
        self.fit_windows, self.strictness, self.pairs = windows, strictness, pairs
        self.register_buffer("landmarks", torch.zeros(landmarks, *inputs["latent"]))
        self.register_buffer("weight", torch.ones(landmarks))
        # halves are exact up to 2048 steps and need a quarter of the memory; gloo cannot send 16-bit integers
        self.register_buffer("steps", torch.full((landmarks, landmarks), APART, dtype=torch.half))

    def fit(self, inputs: Mapping[str, Tensor]) -> None:
        """Choose the landmarks, count the steps between them, and weigh the states near them."""
        latent, rng, number = inputs["latent"], np.random.default_rng(0), len(self.landmarks)
        rows = latent.flatten(0, 1)
        rows = rows[torch.from_numpy(rng.choice(len(rows), min(CANDIDATES, len(rows)), replace=False)).to(rows.device)]
        chosen = rows[farthest_points(rows, number, rng)]
        at = nearest(latent.flatten(0, 1), chosen)[1].view(latent.shape[:2]).cpu().numpy()
        start, end = at[:, :-1].ravel(), at[:, 1:].ravel()
        graph = csr_array((np.ones(len(start)), (start, end)), shape=(len(chosen), len(chosen)))
        steps = shortest_path(graph, unweighted=True)  # a landmark's edges to itself are on no shortest path
        steps = np.minimum(steps, steps.T)
        self.landmarks[: len(chosen)] = chosen
        self.landmarks[len(chosen) :] = chosen[
            -1
        ]  # with fewer states than landmarks; `nearest` finds the first of equal ones
        states = np.bincount(at.ravel(), minlength=len(chosen))
        self.weight[: len(chosen)].copy_(
            torch.from_numpy(states[states > 0].mean() / states.clip(1)).clamp_max(MAX_WEIGHT)
        )
        found = torch.from_numpy(np.where(np.isfinite(steps), steps, APART))
        self.steps[: len(chosen), : len(chosen)].copy_(found)

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        latent, below = output.latent, output.inputs["latent"]
        too_long = (distance(latent[:, 1:], latent[:, :-1], p=1) - 1).clamp_min(0)
        rows, at = latent.flatten(0, 1), nearest(below.flatten(0, 1), self.landmarks)[1]
        everywhere, _ = gather_over_processes(rows)
        all_at, _ = gather_over_processes(at)
        others = random_rows(rows, self.pairs, generator)  # (N, pairs)
        steps = self.steps[at.unsqueeze(1), all_at[others]].float()
        weight = self.weight[at].unsqueeze(1) * (steps != APART)
        error = (distance(rows.unsqueeze(1), everywhere[others], p=1) - steps).square() / (steps.clamp_min(0) + 1)
        total = average_over_processes(weight.mean()).clamp_min(
            torch.finfo(weight.dtype).tiny
        )  # 0 if no path joins a pair
        return self.strictness * too_long.square().mean() + (weight * error).mean() / total
