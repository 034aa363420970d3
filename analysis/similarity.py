"""How similar the latents of several agents are: linear CKA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from hiwm.agent import Agent
from hiwm.data.store import Trajectories


def linear_cka(a: ArrayLike, b: ArrayLike) -> float:
    """Linear centred kernel alignment of latents (N, D) and (N, E) of the same states; NaN if one of them is constant.

    1 for latents that differ by a rotation and a scale; near 0 for independent ones, if N is much larger than D and E. Source:
    Kornblith et al., ICML 2019, arXiv 1905.00414, equation 4 for linear kernels.
    """
    x, y = (np.asarray(z, np.float64) - np.asarray(z, np.float64).mean(0) for z in (a, b))
    if len(x) != len(y):
        raise ValueError(f"the latents have {len(x)} and {len(y)} rows; expected those of the same states")
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.square(np.linalg.norm(x.T @ y)) / scale) if scale > 1e-12 * len(x) else float("nan")


def cka_matrices(agents: Sequence[Agent], dataset: Trajectories, rows: np.ndarray) -> list[np.ndarray]:
    """Linear CKA of every pair of agents on the same rows of a dataset, one matrix (agents, agents) per level they all have."""
    latents = [
        agent.hierarchy.encode_many({name: dataset.column(name) for name in agent.inputs}, rows) for agent in agents
    ]
    return [
        np.array([[linear_cka(a[k], b[k]) for b in latents] for a in latents])
        for k in range(min(len(each) for each in latents))
    ]


def draw_cka(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """One matrix per panel, its title -> linear CKA of every pair."""
    size = 1.6 + 0.55 * len(names)
    figure = Figure(figsize=(max(6.0, (size + 0.4) * len(matrices)), size + 0.6), layout="constrained")
    for axes, (title, matrix) in zip(
        figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True
    ):
        shown = axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
        for (i, j), value in np.ndenumerate(matrix):
            axes.text(
                j, i, f"{value:.2f}", ha="center", va="center", fontsize=9, color="white" if value < 0.7 else "black"
            )
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_title(title, fontsize=10)
    figure.colorbar(shown, ax=figure.axes, shrink=0.8, label="linear CKA")
    return figure
