"""Landmarks: few latents that stand for many."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

AT_ONCE = 8_000_000  # pairs of points that are compared at once
TREE_DIMENSIONS = 8  # up to which a tree is faster


def farthest_points(points: Tensor, number: int, rng: np.random.Generator) -> Tensor:
    """Greedy farthest-point sampling (Gonzalez 1985): indices of at most `number` of the points (N, D)."""
    # the indices stay on the device, whose queue would else run empty for each landmark, and in one tensor: small ones would
    # keep the memory of the large ones between them
    chosen = torch.empty(min(number, len(points)), dtype=torch.long, device=points.device)
    chosen[0] = int(rng.integers(len(points)))
    distance = torch.full_like(points[:, 0], torch.inf)
    for i in range(1, len(chosen)):
        newest = points.index_select(0, chosen[i - 1 : i])
        distance = torch.minimum(distance, (points - newest).square().sum(1))
        chosen[i] = distance.argmax()
    return chosen.cpu()


def nearest(points: Tensor, known: Tensor, tree: KDTree | None = None) -> tuple[Tensor, Tensor]:
    """Euclidean distance to the nearest known point (M, D), and its index: (N, D) -> (N,), (N,).

    Args:
        points: (N, D).
        known: (M, D).
        tree: of the known points, to search on a CPU; None: all are compared.
    """
    if tree is not None and points.device.type == "cpu":
        found = tree.query(points.detach().numpy())
        return torch.from_numpy(found[0]).to(points.dtype), torch.from_numpy(found[1])
    at_once = max(1, AT_ONCE // len(known))
    distance, index = points.new_empty(len(points)), torch.empty(len(points), dtype=torch.long, device=points.device)
    # a list of the small results of every block would keep the memory of the large ones between them
    for start in range(0, len(points), at_once):
        block = slice(start, start + at_once)
        distance[block], index[block] = torch.cdist(points[block], known).min(1)
    return distance, index


def tree_if_faster(known: Tensor) -> KDTree | None:
    """A k-d tree of known points (M, D), if they are on a CPU and `nearest` is likely faster with it.

    With 20,000 to 50,000 landmarks it is 5 to 15 times as fast on states of rooms, whose variance is that of 3 to 7 dimensions, and a seventh as fast on isotropic latents of 64.
    Both ways find the same points, up to float32 rounding.
    """
    if known.device.type != "cpu" or len(known) < 2:
        return None
    covariance = torch.atleast_2d(torch.cov(known.T))
    # participation ratio of the eigenvalues, (sum)^2 / sum of squares, without computing them; NaN if all points are one
    dimensions = covariance.trace().square() / covariance.square().sum()
    return KDTree(known.numpy()) if dimensions <= TREE_DIMENSIONS else None
