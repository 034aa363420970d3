"""What does a level keep of the state?"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from torch import Tensor

from hiwm.analysis.questions.drawing import color, listed, plain
from hiwm.analysis.questions.study import Finding, Study
from hiwm.training.diagnostics.state_probe import state_probe_r2

RIDGES = (1e-3, 1e-1, 1e1, 1e3, 1e5)  # of the linear probe, of which cross-validation takes one
MOMENTS = 64  # of each episode
KEEPS, LOSES = 0.8, 0.2  # R2
LOWEST = -0.1  # that the figure shows
MOST = 16  # columns in the figure


def kept(study: Study) -> Finding | None:
    """R2 of linear and of kernel ridge regression from each level's latent to each column, on held-out episodes."""
    columns = [name for name, column in study.dataset.columns.items() if name != "action" and column.ndim <= 2]
    grid = study.held_out.grid(MOMENTS)
    if not columns or len(grid) < 2:  # probes are fitted on half of the episodes
        return None
    rows = study.held_out.rows[grid]
    scores: dict[str, list[tuple[float, float]]] = {}
    for name in columns:
        values = np.asarray(study.dataset.column(name)[rows.reshape(-1)]).reshape(*rows.shape, -1)
        state = torch.as_tensor(values, dtype=torch.float32)
        latents = [latent[grid] for latent in study.held_out.latents]
        scores[name] = [(linear_r2(latent, state), state_probe_r2(latent, state)) for latent in latents]
    scores = {name: levels for name, levels in scores.items() if np.isfinite(levels).any()}  # others do not vary
    if not scores:
        return None
    metrics = {
        f"level{k}/kept_{name}_{kind}": score
        for name, levels in scores.items()
        for k, both in enumerate(levels)
        for kind, score in zip(("linear", "nonlinear"), both, strict=True)
    }
    sentence = " ".join(
        _sentence(k, {name: levels[k] for name, levels in scores.items()}) for k in range(study.num_levels)
    )
    return Finding("What each level keeps of the state", sentence, metrics, _draw(scores, study.num_levels), CAPTION)


def linear_r2(latent: Tensor, state: Tensor) -> float:
    """R2 of ridge regression from latent (B, T, D) to state (B, T, C), fitted on half of the episodes, measured on the others.

    Columns that do not vary are left out; NaN if none varies, or with a single episode.
    """
    half = len(latent) // 2
    z, s, z_test, s_test = (
        x.flatten(0, 1).double().numpy() for x in (latent[:half], state[:half], latent[half:], state[half:])
    )
    varies = (s.std(0) > 1e-6) & (s_test.std(0) > 1e-6) if half else np.zeros(1, bool)
    if not varies.any():
        return float("nan")
    return float(r2_score(s_test[:, varies], RidgeCV(RIDGES).fit(z, s[:, varies]).predict(z_test)))


CAPTION = (
    "R² of a probe from the latent to each column of the data, fitted on half of the held-out episodes and measured on the other "
    "half. Filled: kernel ridge regression. Hollow: linear. Filled far above hollow: the level keeps it, but not linearly. "
    "0 or less: the latent holds no information about it. Columns that do not vary are left out."
)


def _sentence(k: int, scores: dict[str, tuple[float, float]]) -> str:
    def those(test: np.ndarray) -> str:
        return listed(
            [f"{name} (R² {scores[name][1]:.2f}, linear {scores[name][0]:.2f})" for name in np.array([*scores])[test]]
        )

    best = np.array([nonlinear for _, nonlinear in scores.values()])
    keeps, loses = those(best >= KEEPS), those(best < LOSES)
    partly = those((best >= LOSES) & (best < KEEPS))
    parts = [
        f"keeps {keeps}" if keeps else "",
        f"keeps {partly} in part" if partly else "",
        f"loses {loses}" if loses else "",
    ]
    return f"Level {k} {', '.join(filter(None, parts))}."


def _draw(scores: dict[str, list[tuple[float, float]]], num_levels: int) -> Figure:
    names = [*scores][:MOST]
    figure = Figure(figsize=(8, 1.3 + (0.25 + 0.22 * num_levels) * len(names)), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(names):
        for k, (linear, nonlinear) in enumerate(scores[name]):
            y = -i - (k - (num_levels - 1) / 2) * 0.7 / num_levels
            ends = np.clip([linear, nonlinear], LOWEST, 1)
            axes.plot(ends, [y, y], color=color(k), lw=1.4, alpha=0.6)
            axes.plot(ends[0], y, "o", ms=6, mfc="white", mec=color(k))
            axes.plot(ends[1], y, "o", ms=6, color=color(k), label=f"level {k}" if i == 0 else None)
    axes.set(xlim=(LOWEST - 0.03, 1.03), xlabel="R² on held-out episodes (hollow: linear probe, filled: nonlinear)")
    axes.set_yticks(range(0, -len(names), -1), names)
    axes.set_ylim(-len(names) + 0.4, 0.6)
    axes.axvline(0, color="0.7", lw=0.7)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    plain(axes)
    return figure
