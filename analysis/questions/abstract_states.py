"""Which abstract states does a level have, where do they lie, and how long do they last?"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from hiwm.analysis.figures import INK, log_ticks
from hiwm.analysis.questions.drawing import color, maps, plain, row_of
from hiwm.analysis.questions.study import EncodedRows, Finding, Study

CLUSTERS = 12
FITTED = 4000  # latents that the clusters are fitted to
RESTARTS: Any = 2  # whose type scikit-learn does not declare
POINTS = 4000  # drawn


def abstract_states(study: Study) -> Finding | None:
    """Clusters of each level's latents on held-out episodes, and how long an episode stays in one."""
    rows = study.held_out
    labels = [clusters(latent.numpy()) for latent in rows.latents]
    visits = [lasting(rows, each) for each in labels]
    metrics, said = {}, []
    for k, (each, lengths) in enumerate(zip(labels, visits, strict=True)):
        metrics[f"level{k}/abstract_state_steps"] = float(lengths.mean())
        metrics[f"level{k}/abstract_states"] = float(len(np.unique(each)))
        said.append(
            f"level {k} {lengths.mean():.0f} environment steps ({lengths.mean() / study.periods[k]:.1f} of its own)"
        )
    sentence = f"A visit to one of {CLUSTERS} abstract states lasts on average at {', at '.join(said)}."
    return Finding(
        "Abstract states", sentence, metrics, _draw(study, labels, visits),
        "Held-out states, coloured by the cluster of their latent (k-means; colours of two levels are unrelated). A compact patch "
        "means that a level's latents have the shape of the map. Right: environment steps from entering a cluster to leaving it, "
        "median, quartiles and the middle 90 %; visits that an episode begins or ends in are left out if there are others.",
    )  # fmt: skip


def clusters(latents: np.ndarray, number: int = CLUSTERS) -> np.ndarray:
    """Cluster of every latent, (N, D) -> (N,)."""
    sample = latents[np.linspace(0, len(latents) - 1, min(FITTED, len(latents))).astype(int)]
    number = min(number, len(np.unique(sample, axis=0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct latents than clusters, but for rounding
        fitted: Any = KMeans(number, n_init=RESTARTS, random_state=0).fit(sample)
    return fitted.predict(latents)


def lasting(rows: EncodedRows, labels: np.ndarray) -> np.ndarray:
    """Lengths of the visits, in environment steps; those at the ends of episodes only if there are no others."""
    inner, outer = [], []
    for episode in rows.episodes:
        changes = np.flatnonzero(np.diff(labels[episode])) + 1
        lengths = np.diff(np.concatenate([[0], changes, [len(episode)]]))
        inner.append(lengths[1:-1])
        outer.append(lengths)
    found = np.concatenate(inner)
    return found if len(found) else np.concatenate(outer)


def _draw(study: Study, labels: list[np.ndarray], visits: list[np.ndarray]) -> Figure:
    shown = range(study.num_levels) if study.on_map else range(0)
    figure, (axes,) = row_of(len(shown) + 1, 3.6, 3.4)
    maps(study, axes[:-1])
    some = np.linspace(0, len(study.held_out.rows) - 1, min(POINTS, len(study.held_out.rows))).astype(int)
    for each, k in zip(axes[:-1], shown, strict=True):
        hues = colormaps["tab20"](labels[k][some] % 20)
        each.scatter(*study.held_out.states[some, :2].T, c=hues, s=3, lw=0)
        each.set_title(f"level {k}: {len(np.unique(labels[k]))} clusters", fontsize=9)
    last = axes[-1]
    for k, lengths in enumerate(visits):
        low, q1, median, q3, high = np.percentile(lengths, (5, 25, 50, 75, 95))
        last.plot([low, high], [-k, -k], color=color(k), lw=1.2)
        last.plot([q1, q3], [-k, -k], color=color(k), lw=7, alpha=0.55, solid_capstyle="butt")
        last.plot(median, -k, "o", color="white", mec=color(k), ms=6)
    last.set_yticks(range(0, -len(visits), -1), [f"level {k}" for k in range(len(visits))])
    last.set(xscale="log", xlabel="environment steps per visit", ylim=(-len(visits) + 0.4, 0.6))
    log_ticks(last.xaxis)
    last.plot([], [], "o", color="white", mec=INK, ms=6, label="median")
    last.plot([], [], color=INK, lw=7, alpha=0.55, label="quartiles")
    last.plot([], [], color=INK, lw=1.2, label="middle 90 %")
    if shown:
        last.plot([], [], "o", ms=3, color=INK, label="held-out state; its colour: its cluster")
    figure.legend(*last.get_legend_handles_labels(), loc="outside lower right", ncols=5, fontsize=8, frameon=False)
    plain(last)
    return figure
