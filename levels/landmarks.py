"""Landmarks: few latents that stand for many."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 8_000_000  # pairs of points that are compared at once


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
