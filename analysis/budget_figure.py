"""Success against compute: `python -m hiwm.analysis.budget_figure <figure.png> <title>=<table.csv> ...`, of the tables of `hiwm ablate`.

The last factor of the ablation is the budget of predictor calls; the others tell the lines apart.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from hiwm.analysis.figures import LEVEL_COLORS as COLORS


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """A row per table: success against predictor calls, and against all forward passes, per environment step.

    Args:
        tables: title -> table of an ablation, see `hiwm.analysis.ablation.compare`; at most five lines in all, by name.
    """
    figure = Figure(figsize=(9, 0.8 + 2.7 * len(tables)), layout="constrained")
    panels = figure.subplots(len(tables), 2, sharey=True, sharex="col", squeeze=False)
    names = {variant.rpartition(", ")[0]: None for table in tables.values() for variant in table["variant"]}
    colours = dict(zip(names, COLORS[: len(names)], strict=True))
    shown = {}
    for (title, table), (calls, passes) in zip(tables.items(), panels, strict=True):
        table = table.assign(
            line=table["variant"].str.rpartition(", ")[0], passes=table["predictor_calls"] + table["other_calls"]
        )
        shown |= _lines(calls, table, "predictor_calls", colours)
        _lines(passes, table, "passes", colours)
        calls.set(ylabel="success (%)", ylim=(-3, 103))
        calls.set_title(title, loc="left", fontsize=10)
    panels[-1][0].set_xlabel("predictor calls per environment step")
    panels[-1][1].set_xlabel("all forward passes per environment step")
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return figure


def _lines(axes: Axes, table: pd.DataFrame, x: str, colours: Mapping[str, str]) -> dict[str, Line2D]:
    lines = {}
    for name, rows in table.groupby("line", sort=False):
        rows = rows.sort_values(x)
        axes.fill_between(rows[x], rows["low"], rows["high"], color=colours[str(name)], alpha=0.18, lw=0)
        (lines[str(name)],) = axes.plot(rows[x], rows["success"], "-o", color=colours[str(name)], ms=4)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return lines


if __name__ == "__main__":
    target, *given = sys.argv[1:] or [""]
    if not given or not all("=" in each for each in given):
        sys.exit("expected <figure.png> <title>=<table.csv> ...")
    named = [each.rpartition("=")[::2] for each in given]
    draw({title: pd.read_csv(path) for title, path in named}).savefig(Path(target), dpi=150)
