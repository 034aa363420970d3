"""The distance between latents that a level plans by."""

from __future__ import annotations

from torch import Tensor


def distance(a: Tensor, b: Tensor, p: int = 2) -> Tensor:
    """Sum of |a - b|^p over the last axis, (..., D), (..., D) -> (...).

    Args:
        a: latents.
        b: other ones.
        p: 2, the squared Euclidean distance, or 1, the number of steps between latents of a metric level. Sums of absolute
            differences can be the path lengths of any tree, with one dimension per branch, and the corridors of a maze are nearly one. Euclidean
            distances cannot: they cut across the branches.
    """
    difference = a - b
    return (difference.square() if p == 2 else difference.abs()).sum(-1)
