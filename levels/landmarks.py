"""Landmarks: few latents that stand for many."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK = 16_384  # points that are compared with the landmarks at once


def farthest_points(points: Tensor, number: int, rng: np.random.Generator) -> Tensor:
    """Greedy farthest-point sampling (Gonzalez 1985): indices of at most `number` of the points (N, D)."""
    chosen = [int(rng.integers(len(points)))]
    distance = (points - points[chosen[0]]).square().sum(1)
    for _ in range(min(number, len(points)) - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)


def nearest(points: Tensor, landmarks: Tensor) -> Tensor:
    """Index of the nearest landmark (M, D) of each point, (N, D) -> (N,)."""
    return torch.cat([torch.cdist(block, landmarks).argmin(1) for block in points.split(BLOCK)])
