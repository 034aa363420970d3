"""Landmarks: few latents that stand for many."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

AT_ONCE = 8_000_000  # pairs of points that are compared at once
TRIAL = 256  # points with which `NearestIndex` compares its two ways


def farthest_points(points: Tensor, number: int, rng: np.random.Generator) -> Tensor:
    """Greedy farthest-point sampling (Gonzalez 1985): indices of at most `number` of the points (N, D)."""
    chosen = [int(rng.integers(len(points)))]
    distance = (points - points[chosen[0]]).square().sum(1)
    for _ in range(min(number, len(points)) - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)


def nearest(points: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance to the nearest known point (M, D), and its index: (N, D) -> (N,), (N,)."""
    at_once = max(1, AT_ONCE // len(known))
    distance, index = points.new_empty(len(points)), torch.empty(len(points), dtype=torch.long, device=points.device)
    # a list of the small results of every block would keep the memory of the large ones between them
    for start in range(0, len(points), at_once):
        block = slice(start, start + at_once)
        distance[block], index[block] = torch.cdist(points[block], known).min(1)
    return distance, index


class NearestIndex:
    """`nearest` of many known points, prepared once.

    On a CPU it is a k-d tree where that is faster, and it is by far where latents have few intrinsic dimensions: for 50,000 states of rooms 15 times,
    for 20,000 isotropic latents of 64 dimensions a seventh. Both ways find the same points, up to ties.

    Args:
        known: points, (M, D).
        like: points as they will be asked for, (N, D); some of them decide which way is faster.
    """

    def __init__(self, known: Tensor, like: Tensor) -> None:
        self.known = known
        self.tree: KDTree | None = None
        if known.device.type == "cpu":
            some, tree = like[:: -(-len(like) // TRIAL)], KDTree(known.numpy())
            if _seconds(lambda: tree.query(some.numpy())) < _seconds(lambda: nearest(some, known)):
                self.tree = tree

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Euclidean distance to the nearest known point, and its index: (N, D) -> (N,), (N,)."""
        if self.tree is None:
            return nearest(points, self.known)
        distance, index = self.tree.query(points.detach().numpy())
        return torch.from_numpy(distance).to(points.dtype), torch.from_numpy(index)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
