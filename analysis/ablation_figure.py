"""The figure of `hiwm ablate`: success of every variant, and its difference to the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SEED, REFERENCE = "#0072b2", "#e69f00", "#8a8f98"


def draw(results: pd.DataFrame, labels: Sequence[str], by_seed: Mapping[str, Sequence[float]], name: str) -> Figure:
    """Two panels with a row per variant, in the order of the table.

    Args:
        results: the table, see `hiwm.analysis.ablation.compare`.
        labels: what each row is called.
        by_seed: variant -> success of each seed, in percent.
        name: of the ablation.
    """
    lines = max(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(11, 1.9 + (0.36 + 0.16 * lines) * len(results)), layout="constrained")
    success, difference = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(results))[::-1]
    for row, variant in zip(rows, results["variant"], strict=True):
        seeds = by_seed[variant]
        success.plot(seeds, np.full(len(seeds), row - 0.22), "o", color=SEED, ms=4, mec="none", clip_on=False)
    success.plot([], [], "o", color=SEED, ms=4, mec="none", label="one seed")
    success.hlines(rows, results["low"], results["high"], color=INK, lw=2.5)
    success.plot(results["success"], rows, "-o", color=INK, lw=0, ms=7, clip_on=False)
    success.plot([], [], "-o", color=INK, lw=2.5, ms=7, label="mean, with its 95 % interval")
    success.axvline(results["success"].iloc[0], color=REFERENCE, lw=1, ls="--", zorder=0, label="the first variant")
    _numbers(success, results["success"].map("{:.0f}".format), rows)
    success.set_yticks(rows, labels)
    success.set(xlim=(0, 100), ylim=(-0.7, len(results) - 0.3), xlabel="success (%)")
    others = results.iloc[1:]
    difference.hlines(rows[1:], others["difference_low"], others["difference_high"], color=INK, lw=2.5)
    difference.plot(others["difference"], rows[1:], "o", color=INK, ms=7)
    difference.axvline(0, color=REFERENCE, lw=1, ls="--", zorder=0)
    _numbers(difference, ["", *others["difference"].map("{:+.0f}".format)], rows)
    difference.set(xlabel="difference to the first variant, same episodes (percentage points)")
    for axes in (success, difference):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*success.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    seeds, episodes = results["seeds"].iloc[0], results["episodes"].iloc[0]
    of_seeds = f"{seeds} seed{'s' if seeds > 1 else ''}"
    figure.suptitle(f"ablation {name}: {of_seeds}, {episodes} episodes per variant", x=0.01, ha="left")
    return figure


def _numbers(axes: Axes, texts: Sequence[str] | pd.Series, rows: np.ndarray) -> None:
    """A column of numbers to the right of a panel, where no line crosses them."""
    for text, row in zip(texts, rows, strict=True):
        place = axes.get_yaxis_transform()
        axes.annotate(text, (1, row), (10, 0), xycoords=place, textcoords="offset points", va="center")
