"""The distance between latents that a level plans by."""

from __future__ import annotations

from torch import Tensor


def distance(a: Tensor, b: Tensor, p: int) -> Tensor:
    """Sum of |a - b|^p over the last axis, (..., D), (..., D) -> (...).

    Args:
        a: latents.
        b: latents.
        p: 2 for the squared Euclidean distance; 1, at metric levels, for the number of steps. The corridors of a maze are nearly
            a tree, and with one dimension per branch the sum of absolute differences can equal the path lengths of any tree. Euclidean distances
            cannot: they cut across the branches.
    """
    difference = a - b
    return (difference.square() if p == 2 else difference.abs()).sum(-1)
