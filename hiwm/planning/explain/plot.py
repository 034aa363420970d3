"""Pictures of plans in latent space."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes

PATH, SUBGOAL, TARGET, OTHER = "#0072b2", "#e69f00", "#d4148c", "#8a8f98"


def draw_latents(
    axes: Axes, path: np.ndarray, subgoal: np.ndarray, target: np.ndarray | None, others: Mapping[str, np.ndarray]
) -> None:
    """Latents of one level in the plane of their first two principal components.

    Args:
        axes: to draw in.
        path: predicted latents, (H, D); H is 0 where there are none.
        subgoal: the latent that is handed down, (D,).
        target: what the level plans towards, (D,); None where it is no latent of this level.
        others: label -> latent (D,), such as subgoals that were rejected.
    """
    points = [*path, subgoal, *([] if target is None else [target]), *others.values()]
    plane = _plane(np.stack(points))
    if len(path):
        drawn = plane(path)
        axes.plot(*drawn.T, "o-", color=PATH, ms=4, lw=1.3, label="predicted latents")
        axes.annotate("first", drawn[0], (4, 4), textcoords="offset points", fontsize=8, color=PATH)
    for label, latent in others.items():
        where = plane(latent[None])[0]
        axes.plot(*where, "x", color=OTHER, ms=7, mew=1.5)
        axes.annotate(label, where, (5, 3), textcoords="offset points", fontsize=8, color=OTHER)
    axes.plot(*plane(subgoal[None]).T, "o", ms=12, mfc="none", mew=2, color=SUBGOAL, label="handed down")
    if target is not None:
        axes.plot(*plane(target[None]).T, "*", ms=15, color=TARGET, mec="white", label="target")
    axes.set(xlabel="first principal component", ylabel="second principal component")
    axes.margins(0.15)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw_costs(axes: Axes, costs: Mapping[str, float]) -> None:
    """Costs as bars, the first one on top."""
    names = list(costs)[::-1]
    bars = axes.barh(names, [costs[name] for name in names], color=OTHER, height=0.6)
    axes.bar_label(bars, fmt=" %.3g", fontsize=8)
    axes.set_xlabel("cost")
    axes.margins(x=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def _plane(points: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Projection (N, D) -> (N, 2) on the first two principal components of some points; latents of up to two numbers stay."""
    centre = points.mean(0)
    if points.shape[1] <= 2:
        return lambda x: np.pad(x, ((0, 0), (0, 2 - x.shape[1])))
    _, _, axes = np.linalg.svd(points - centre, full_matrices=False)
    two = np.zeros((2, points.shape[1]))
    two[: len(axes[:2])] = axes[:2]
    return lambda x: (x - centre) @ two.T
