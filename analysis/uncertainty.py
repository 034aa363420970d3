"""The calibration of ensembles, in a figure and a table of the report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hiwm.analysis.figures import INK
from hiwm.heads.calibration import NOMINAL, Calibration

KINDS = {  # attribute of a calibration: label and colour (Okabe & Ito 2008)
    "raw": ("intervals, members' own variance", "#d55e00"),
    "scaled": ("intervals, scaled variance", "#0072b2"),
    "conformal": ("balls, split conformal", "#009e73"),
}


def summary(calibration: Calibration) -> dict[str, str]:
    """The smallest and the largest of each number over the steps ahead, in words for a table."""

    def span(values: np.ndarray, form: str) -> str:
        low, high = (form.format(value) for value in (values.min(), values.max()))
        return low if low == high else f"{low} to {high}"

    words = {"steps": str(calibration.steps)}
    for name, form in (("scale", "{:.1f}"), ("ratio", "{:.1f}"), ("spearman", "{:.2f}")):
        words[name] = span(getattr(calibration, name).numpy(), form)
    for name in KINDS:
        shares = 100 * getattr(calibration, name).numpy()
        words[name] = ", ".join(span(column, "{:.0f}") for column in shares.T)
    return words


def calibration_curves(calibrations: Mapping[int, Calibration], periods: Mapping[int, int]) -> Figure:
    """One row per level: measured over nominal coverage; scale and rank correlation over the steps ahead.

    Args:
        calibrations: level -> calibration of its ensemble.
        periods: level -> environment steps in one of its steps.
    """
    figure = Figure(figsize=(11, 3.1 * len(calibrations) + 0.6), layout="constrained")
    grid = figure.subplots(len(calibrations), 3, squeeze=False)
    nominal = 100 * np.array(NOMINAL)
    for (coverage, scale, correlation), (level, known) in zip(grid, calibrations.items(), strict=True):
        coverage.plot([0, 100], [0, 100], color=INK, lw=0.7, ls="--")
        for name, (label, color) in KINDS.items():
            shares = 100 * getattr(known, name).numpy()
            coverage.fill_between(nominal, shares.min(0), shares.max(0), color=color, alpha=0.15, lw=0)
            coverage.plot(nominal, shares.mean(0), "o-", ms=4, lw=1.4, color=color, label=label)
        coverage.set(xlabel="nominal coverage (%)", ylabel="measured coverage (%)", title=f"level {level}: coverage")
        coverage.set(xlim=(45, 100), ylim=(0, 102))
        ahead = 1 + np.arange(known.steps)
        scale.plot(ahead, known.scale.numpy(), "o-", ms=3, lw=1.2, color=INK)
        scale.axhline(1, color=INK, lw=0.7, ls="--")
        scale.set(ylim=(0, 1.1 * max(1, known.scale.max().item())), ylabel="ratio")
        scale.set(title=f"level {level}: squared error / disagreement")
        correlation.plot(ahead, known.spearman.numpy(), "o-", ms=3, lw=1.2, color=INK)
        correlation.axhline(0, color=INK, lw=0.7, ls="--")
        correlation.set(ylim=(-0.1, 1), ylabel="Spearman correlation", title=f"level {level}: error and disagreement")
        for axes in (scale, correlation):
            axes.set_xlabel(f"steps ahead (of {periods[level]} environment steps)")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (coverage, scale, correlation):
            axes.spines[["top", "right"]].set_visible(False)
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(KINDS), fontsize=9, frameon=False)
    return figure
