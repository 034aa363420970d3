"""What the disagreement of ensembles is worth, as a figure and as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hiwm.analysis.figures import INK
from hiwm.heads.calibration import NOMINAL, Calibration

Row = dict[str, str | int | float]
KINDS = {  # what of a calibration, its label and colour (Okabe & Ito 2008)
    "raw": ("intervals, members' own variance", "#d55e00"),
    "scaled": ("intervals, variance scaled", "#0072b2"),
    "conformal": ("balls, split conformal", "#009e73"),
}


def rows_of(calibration: Calibration) -> list[Row]:
    """A row a step ahead."""
    rows: list[Row] = []
    for h in range(calibration.steps):
        row: Row = {"step": h + 1}
        for name in ("scale", "ratio", "spearman"):
            row[name] = round(float(getattr(calibration, name)[h]), 3)
        for name in KINDS:
            for share, value in zip(NOMINAL, getattr(calibration, name)[h], strict=True):
                row[f"{name}_{round(100 * share)}"] = round(float(value), 3)
        rows.append(row)
    return rows


def summary(calibration: Calibration) -> dict[str, str]:
    """Over the steps ahead: the least and the most of each number, in words for a table."""

    def span(values: np.ndarray, form: str) -> str:
        low, high = (form.format(value) for value in (values.min(), values.max()))
        return low if low == high else f"{low} to {high}"

    told = {"steps": str(calibration.steps)}
    for name, form in (("scale", "{:.1f}"), ("ratio", "{:.1f}"), ("spearman", "{:.2f}")):
        told[name] = span(getattr(calibration, name).numpy(), form)
    for name in KINDS:
        shares = 100 * getattr(calibration, name).numpy()
        told[name] = ", ".join(span(column, "{:.0f}") for column in shares.T)
    return told


def calibration_curves(calibrations: Mapping[int, Calibration], periods: Mapping[int, int]) -> Figure:
    """A row a level: nominal against measured coverage; scale and rank correlation of every step ahead.

    Args:
        calibrations: level -> its ensemble's.
        periods: level -> environment steps of one of its steps.
    """
    figure = Figure(figsize=(11, 3.1 * len(calibrations) + 0.6), layout="constrained")
    grid = figure.subplots(len(calibrations), 3, squeeze=False)
    nominal = 100 * np.array(NOMINAL)
    for (covered, sized, ranked), (level, known) in zip(grid, calibrations.items(), strict=True):
        covered.plot([0, 100], [0, 100], color=INK, lw=0.7, ls="--")
        for name, (label, color) in KINDS.items():
            shares = 100 * getattr(known, name).numpy()
            covered.fill_between(nominal, shares.min(0), shares.max(0), color=color, alpha=0.15, lw=0)
            covered.plot(nominal, shares.mean(0), "o-", ms=4, lw=1.4, color=color, label=label)
        covered.set(
            title=f"level {level}: coverage", xlabel="nominal share (%)", ylabel="errors inside (%)", ylim=(0, 102)
        )
        covered.set(xlim=(45, 100))
        ahead = 1 + np.arange(known.steps)
        sized.plot(ahead, known.scale.numpy(), "o-", ms=3, lw=1.2, color=INK)
        sized.axhline(1, color=INK, lw=0.7, ls="--")
        sized.set_ylim(0, 1.1 * max(1, known.scale.max().item()))
        sized.set(title=f"level {level}: squared error / disagreement")
        ranked.plot(ahead, known.spearman.numpy(), "o-", ms=3, lw=1.2, color=INK)
        ranked.axhline(0, color=INK, lw=0.7, ls="--")
        ranked.set(ylim=(-0.1, 1), title=f"level {level}: rank correlation of the two")
        for axes in (sized, ranked):
            axes.set_xlabel(f"steps ahead (of {periods[level]} environment steps)")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (covered, sized, ranked):
            axes.spines[["top", "right"]].set_visible(False)
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(KINDS), fontsize=9, frameon=False)
    return figure
