"""Graph distance: the distance between two latents is the length of the shortest path that the data know."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.spatial import KDTree
from torch import Tensor

from hiwm.checks import at_least, within
from hiwm.levels.distance import distance
from hiwm.levels.distributed import average_over_processes, gather_over_processes, uniform_rows
from hiwm.levels.landmarks import farthest_points, nearest, tree_if_faster
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer

# latents of the level below from which the landmarks are chosen, or three for each landmark if that is more
CANDIDATES = 20_000
MAX_WEIGHT = 10.0


class GraphDistance(Regularizer):
    """Fit |z_i - z_j|, of random states i, j of one component, to the steps S between the landmarks they are nearest to.

        strictness * mean of max(0, |z_t+1 - z_t| - 1)^2  +  weighted mean of (|z_i - z_j| - S)^2 / (S + 1)

    The landmarks are latents of the level below. An edge joins two of them if a step of the data leads from near one to near
    the other, in either direction, and S is the number of edges on the shortest path. So it suits worlds in which steps can
    be undone. Isomap (Tenenbaum et al. 2000) embeds such distances; here an encoder learns the embedding, under the sum of
    absolute differences, which holds the paths of a tree (see `hiwm.levels.distance`), and planning needs no graph. As in
    Sammon's mapping (1969), errors are relative to the distance; S + 1 keeps pairs of one landmark finite. Landmarks that
    paths join are a component: a maze is one, and so is each layout of rooms whose doors differ between episodes. A state is
    compared with states of its own component only. The weight of a pair is inverse to the number of states near the landmark
    of state i, and at most 10 times the average: a dead end that the data seldom visit would otherwise be embedded a few
    steps off, and plans would be trapped there.

    Landmarks and steps are not saved with the level, because only its training needs them.

    Args:
        inputs: shape of one step of every input; only a latent of the level below.
        landmarks: number of landmarks M, in all components together.
        windows: windows of the data whose steps join the landmarks.
        strictness: weight of steps that are longer than one.
        pairs: random states that each state is compared with.
    """

    metric = True
    landmarks: Tensor  # (M, D)
    # of each landmark:
    weight: Tensor  # (M,)
    component: Tensor  # (M,)
    row: Tensor  # where its steps to the others begin in `steps`, (M,)
    column: Tensor  # its number in its component, (M,)
    steps: Tensor  # from the landmarks to those of the same component, one row after another

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
        self.num_landmarks, self.fit_windows = landmarks, windows
        self.strictness, self.pairs = strictness, pairs
        self.tree: KDTree | None = None  # of the landmarks, where it is faster
        for name in ("landmarks", "weight", "component", "row", "column", "steps"):
            self.register_buffer(name, torch.empty(0), persistent=False)

    def fit(self, inputs: Mapping[str, Tensor]) -> None:
        """Choose the landmarks, count the steps between them, and weigh the states near them."""
        latent, rng = inputs["latent"], np.random.default_rng(0)
        rows = latent.flatten(0, 1)
        candidates = min(len(rows), max(CANDIDATES, 3 * self.num_landmarks))
        drawn = rows[torch.from_numpy(rng.choice(len(rows), candidates, replace=False)).to(rows.device)]
        self.landmarks = drawn[farthest_points(drawn, self.num_landmarks, rng)]
        self.tree = tree_if_faster(self.landmarks)
        _, at = nearest(rows, self.landmarks, self.tree)
        at = at.view(latent.shape[:2]).cpu().numpy()
        states = np.bincount(at.ravel(), minlength=len(self.landmarks))
        weight = states[states > 0].mean() / states.clip(1)
        component, row, column, steps = _shortest_paths(at[:, :-1].ravel(), at[:, 1:].ravel(), len(self.landmarks))
        found = (weight.clip(max=MAX_WEIGHT).astype(np.float32), component, row, column, steps)
        self.weight, self.component, self.row, self.column, self.steps = (
            torch.from_numpy(value).to(rows.device) for value in found
        )

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        if not len(self.landmarks):
            raise RuntimeError("the graph distance has no landmarks; call fit, or Level.fit_regularizers, first")
        latent, below = output.latent, output.inputs["latent"]
        too_long = (distance(latent[:, 1:], latent[:, :-1], p=1) - 1).clamp_min(0)
        rows = latent.flatten(0, 1)
        _, at = nearest(below.flatten(0, 1), self.landmarks, self.tree)
        everywhere, _ = gather_over_processes(rows)
        all_at, _ = gather_over_processes(at)
        others = self._companions(at, all_at, generator)  # (N, pairs)
        steps = self.steps[self.row[at].unsqueeze(1) + self.column[all_at[others]]].float()
        error = (distance(rows.unsqueeze(1), everywhere[others], p=1) - steps).square() / (steps + 1)
        weight = self.weight[at]
        fit = (weight * error.mean(1)).mean() / average_over_processes(weight.mean())
        return self.strictness * too_long.square().mean() + fit

    def _companions(self, at: Tensor, all_at: Tensor, generator: torch.Generator) -> Tensor:
        """For states near landmarks `at` (N,), indices of random states of the global batch in the same component, (N, pairs)."""
        component = self.component[at]
        ordered, order = self.component[all_at].sort(stable=True)
        first = torch.searchsorted(ordered, component).unsqueeze(1)
        count = torch.searchsorted(ordered, component, right=True).unsqueeze(1) - first
        drawn = uniform_rows(len(at), self.pairs, generator).to(at.device)
        return order[first + (drawn * count).long()]


def _shortest_paths(
    start: np.ndarray, end: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps of the shortest paths along undirected edges, within each connected component.

    Args:
        start: landmark at one end of each edge, (E,).
        end: landmark at its other end, (E,).
        number: number of landmarks M.

    Returns:
        `component`, `row`, `column` and `steps` of `GraphDistance`.
    """
    graph = csr_array((np.ones(len(start)), (start, end)), shape=(number, number))
    components, component = connected_components(graph, directed=False)
    row, column, blocks, total = np.empty(number, np.int64), np.empty(number, np.int64), [], 0
    for members in (np.flatnonzero(component == k) for k in range(components)):
        column[members] = np.arange(len(members))
        row[members] = total + len(members) * column[members]
        between = shortest_path(graph[members][:, members], directed=False, unweighted=True)
        blocks.append(between.astype(np.half).ravel())  # exact up to 2048 steps, in a quarter of the memory
        total += len(members) ** 2
    return component.astype(np.int64), row, column, np.concatenate(blocks)
