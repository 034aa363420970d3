"""Figures: training curves, success rates, maps with plans and landmark graphs, decoded frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hiwm.analysis.decode import Frames, StateDecoder
from hiwm.envs.oracle import Wall
from hiwm.evaluation.outcomes import Trace
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.training.diagnostics.rank import EffectiveRank
from hiwm.training.diagnostics.runner import Diagnostics

LEVEL_COLORS = (
    "#0072b2",
    "#e69f00",
    "#d55e00",
    "#cc79a7",
    "#009e73",
)  # Okabe & Ito 2008: safe for colour-blind readers
WALL = "#c9ccd1"
INK = "#22262b"
GRAPH = "#7fa8c9"
HEALTH_RANGE = (
    -0.1,
    1.1,
)  # the prediction error of an untrained level may be a thousand times that of predicting no change
INK_OF_EDGES = 2_000  # a panel with more edges draws them fainter
EDGES_BEHIND = 1_500  # a sample of so many edges shows the extent of a graph and leaves the path in sight


def curves(histories: Mapping[int, Sequence[Mapping[str, Any]]], diagnostics: Diagnostics) -> Figure:
    """One row per level: training losses, shipped diagnostics, and added diagnostics if there are any, over optimiser steps.

    Args:
        histories: level -> records with `step` and metrics, as the training writes them.
        diagnostics: those that were measured.
    """
    added = [diagnostic for diagnostic in diagnostics if diagnostic.name in diagnostics.added]
    # the rank share stands for the effective rank: it is on the scale of the others
    shipped = [d for d in diagnostics if d.name not in diagnostics.added and d.name != EffectiveRank.name]
    figure = Figure(figsize=(11, 2.9 * len(histories) + 0.9), layout="constrained")
    grid = figure.subplots(len(histories), 3 if added else 2, squeeze=False)
    losses = sorted(
        {key for records in histories.values() for record in records for key in record if key.startswith("loss/")}
    )
    for row, (level, records) in zip(grid, histories.items(), strict=True):
        for i, name in enumerate(losses):
            label = name.removeprefix("loss/").replace("total", "total (weighted)")
            row[0].plot(*curve_of(records, name), label=label, lw=1.2, color=f"C{i}", marker=".", ms=2.5)
        row[0].set(yscale="log", ylabel="loss (unweighted)", title=f"level {level}: training losses")
        log_ticks(row[0].yaxis)
        for i, diagnostic in enumerate(shipped):
            points = curve_of(records, f"validation/{diagnostic.name}")
            _within(row[1], *points, label=diagnostic.label, color=f"C{i}")
        row[1].set(ylabel="value on held-out data", title=f"level {level}: diagnostics", ylim=HEALTH_RANGE)
        row[1].axhline(0, color=INK, lw=0.5)
        if added:
            for i, diagnostic in enumerate(added):
                points = curve_of(records, f"validation/{diagnostic.name}")
                row[2].plot(*points, "o-", ms=3, lw=1.2, color=f"C{i}", label=diagnostic.label)
            row[2].set(ylabel="value on held-out data", title=f"level {level}: added diagnostics")
        for axes in row:
            axes.set_xlabel("optimiser step")
            axes.spines[["top", "right"]].set_visible(False)
    places = ("outside lower left", "outside lower center" if added else "outside lower right", "outside lower right")
    for axes, place in zip(grid[0], places, strict=False):
        handles = axes.get_legend_handles_labels()
        figure.legend(*handles, loc=place, fontsize=8, ncols=1 if added else 2, frameon=False)
    return figure


def curve_of(records: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the records that have the number."""
    found = [(record["step"], record[name]) for record in records if name in record]
    steps, values = np.array(found, float).reshape(-1, 2).T
    return steps, values


def _within(axes: Axes, steps: np.ndarray, values: np.ndarray, *, label: str, color: str) -> None:
    """A curve clipped to `HEALTH_RANGE`, with a triangle at the border for every value beyond it."""
    low, high = HEALTH_RANGE
    axes.plot(steps, values.clip(low, high), lw=1.2, color=color)
    inside = (values >= low) & (values <= high)
    axes.plot(steps[inside], values[inside], "o", ms=3, color=color)
    for beyond, marker, border in ((values > high, "^", high), (values < low, "v", low)):
        if beyond.any():  # the layout takes the extent of an unclipped line without points to be infinite
            axes.plot(steps[beyond], np.full(beyond.sum(), border), marker, ms=7, color=color, clip_on=False, zorder=3)
    axes.plot([], [], "o-", ms=3, lw=1.2, color=color, label=label)


def success_bars(agents: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Success rates of every agent on every task, with 95 % Wilson intervals."""
    tasks = list(next(iter(agents.values()))["per_task"])
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(agents)
    for i, (name, numbers) in enumerate(agents.items()):
        rates = [numbers] + [numbers["per_task"][task] for task in tasks]
        x = np.arange(len(rates)) + (i - (len(agents) - 1) / 2) * width
        y = 100 * np.array([rate["success"] for rate in rates])
        low, high = 100 * np.array([rate["interval"] for rate in rates]).T
        errors = np.clip([y - low, high - y], 0, None)
        color = LEVEL_COLORS[(2, 0, 1, 3, 4)[i]] if i < 5 else None
        each = "/".join(sorted({str(numbers["per_task"][task]["episodes"]) for task in tasks}))
        axes.bar(x, y, width * 0.9, color=color, label=f"{name} ({each} episodes a task)", yerr=errors, capsize=2,
                 error_kw={"lw": 1, "ecolor": INK})  # fmt: skip
    axes.set_xticks(range(len(tasks) + 1), ["all tasks", *(f"task {task}" for task in tasks)])
    axes.set(ylabel="success rate (%)", ylim=(0, 105))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, ncols=len(agents), loc="upper center", bbox_to_anchor=(0.5, 1.15), frameon=False)
    return figure


def episodes(
    traces: Mapping[str, Sequence[Trace]],
    decoder: StateDecoder,
    graphs: Mapping[str, tuple[LandmarkGraph, np.ndarray]],
    walls: Sequence[Wall],
    labels: Sequence[str],
    most: int = 3,
) -> Figure:
    """One row per agent, one column per task: path, start, goal, landmark graph, and the subgoals that the levels handed down.

    Args:
        traces: agent -> one episode of each task.
        decoder: turns latents into states.
        graphs: agent -> the graph that it plans on, and the true states of the landmarks (M, C); only agents with a graph.
        walls: rectangles of the map, for episodes that have no others; empty for an environment without a map.
        labels: axis labels of the two drawn numbers of a state.
        most: number of tasks shown; tasks on which the agents differ come first.
    """
    tasks = _tasks_that_differ_first(traces)[:most]
    figure = Figure(figsize=(4.3 * len(tasks), 3.9 * len(traces)), layout="constrained")
    grid = figure.subplots(len(traces), len(tasks), squeeze=False, sharex=True, sharey=True)
    for row, (agent, of_agent) in zip(grid, traces.items(), strict=True):
        for axes, task in zip(row, tasks, strict=True):
            trace = next((trace for trace in of_agent if trace.task == task), None)
            if trace is None:  # of a file that lacks some
                axes.set_axis_off()
                continue
            draw_map(axes, trace.walls.tolist() or walls, decoder.states, labels)
            if agent in graphs:
                _graph(axes, *graphs[agent], color=GRAPH, most=EDGES_BEHIND)
            for level in range(len(trace.subgoals) - 1, 0, -1):
                states = decoder.decode(level, _distinct(trace.subgoals[level]))
                axes.plot(*states[:, :2].T, "os"[level % 2], ms=3 + 1.5 * level, mfc="none", mew=1,
                          color=LEVEL_COLORS[level], label=f"subgoals of level {level}")  # fmt: skip
            axes.plot(*trace.states[:, :2].T, color=INK, lw=1.3, label="path")
            axes.plot(*trace.states[0, :2], "o", ms=8, color="#009e73", label="start")
            axes.plot(*trace.goal[:2], "*", ms=15, color="#d4148c", mec="white", label="goal")
            steps = trace.steps
            outcome = f"reached in {steps} steps" if trace.success else f"not reached in {steps} steps"
            axes.set_title(f"{agent}\ntask {task}, episode {trace.episode}: {outcome}", fontsize=9)
    named = {}  # agents draw different things
    for axes in grid.flat:
        handles, labels = axes.get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True)) | named
    columns = 2 * len(tasks)  # so many fit side by side
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    return figure


def landmark_graphs(
    graphs: Sequence[LandmarkGraph], states: Sequence[np.ndarray], walls: Sequence[Wall], labels: Sequence[str]
) -> Figure:
    """The landmarks of every level at their true states, and the edges between them.

    Args:
        graphs: one per level.
        states: true states of the landmarks, (M, C) each.
        walls: rectangles of the map.
        labels: axis labels of the two drawn numbers of a state.
    """
    figure = Figure(figsize=(4.3 * len(graphs), 3.9), layout="constrained")
    for level, (axes, graph, where) in enumerate(zip(figure.subplots(1, len(graphs), squeeze=False, sharex=True, sharey=True)[0], graphs, states,
                                                     strict=True)):  # fmt: skip
        draw_map(axes, walls, where, labels)
        _graph(axes, graph, where, color=LEVEL_COLORS[level])
        axes.plot(*where[:, :2].T, ".", ms=2.5, color=INK)
        edges = graph.edges.shape[1]
        axes.set_title(
            f"level {level}: {len(where)} landmarks, {edges:,} edges of {graph.edge_steps} environment steps",
            fontsize=9,
        )
    return figure


def frames(shown: Frames) -> Figure:
    """Windows one below the other: true frames, frames decoded from their own latents, and from predicted latents."""
    kinds = {"true": shown.true, "decoded": shown.encoded, "predicted": shown.predicted}
    windows, moments = shown.true.shape[:2]
    rows = len(kinds) * windows
    figure = Figure(figsize=(11, (11 / moments) * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, moments, squeeze=False)
    for row, axes_of_row in enumerate(grid):
        name = list(kinds)[row % len(kinds)]
        for column, axes in enumerate(axes_of_row):
            frame = kinds[name][row // len(kinds), column]
            axes.imshow(frame if frame.shape[-1] == 3 else frame.mean(-1), cmap="gray", interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color(WALL)
        axes_of_row[0].set_ylabel(name, fontsize=9)
    for axes, ahead in zip(grid[0], shown.ahead, strict=True):
        beyond = " *" if ahead > shown.trained else ""
        axes.set_title(f"{ahead} steps ahead{beyond}" if ahead else "now", fontsize=9)
    return figure


def _graph(axes: Axes, graph: LandmarkGraph, where: np.ndarray, color: str, most: int | None = None) -> None:
    """The edges of a graph, or a sample of at most so many."""
    start, end = graph.edges.numpy()
    if most is not None and len(start) > most:
        sample = np.random.default_rng(0).choice(len(start), most, replace=False)
        start, end = start[sample], end[sample]
    lines = np.stack([where[start, :2], where[end, :2]], 1)
    alpha = min(0.5, INK_OF_EDGES / max(1, len(lines)))
    # as pixels also in a PDF, where each edge would be an object of its own
    axes.add_collection(LineCollection(lines.tolist(), colors=color, lw=0.3, alpha=alpha, rasterized=True))
    axes.plot([], [], color=color, lw=1.2, label="landmark graph")  # faint edges would be invisible in the legend


def log_ticks(*axes: Axis) -> None:
    """Plain numbers at logarithmic axes, whose limits are known; matplotlib writes formulas, which a report does not parse."""
    for axis in axes:
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def draw_map(axes: Axes, walls: Sequence[Wall], states: np.ndarray, labels: Sequence[str]) -> None:
    """Draw the walls, or where the data are, and the labels of the axes."""
    patches = [Rectangle((x, y), width, height) for x, y, width, height in walls]
    axes.add_collection(PatchCollection(patches, facecolor=WALL, edgecolor=WALL))
    if not walls:  # no map: show where the data are
        axes.plot(*states[::10, :2].T, ".", ms=1, color=WALL, label="states of the data")
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.set_xlabel(labels[0], fontsize=8)
    axes.set_ylabel(labels[1], fontsize=8)
    axes.tick_params(labelsize=7)


def _distinct(subgoals: np.ndarray) -> np.ndarray:
    """Consecutive repetitions removed, (T, D) -> (T', D)."""
    return subgoals[np.append(True, (subgoals[1:] != subgoals[:-1]).any(1))]


def _tasks_that_differ_first(traces: Mapping[str, Sequence[Trace]]) -> list[int]:
    outcomes: dict[int, list[Trace]] = {}
    for of_agent in traces.values():
        for trace in of_agent:
            outcomes.setdefault(trace.task, []).append(trace)
    return sorted(
        outcomes, key=lambda task: (len({t.success for t in outcomes[task]}) == 1, -len(outcomes[task][0].states))
    )
