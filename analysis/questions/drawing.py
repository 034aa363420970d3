"""What the figures of the questions share: a row of maps, one per level."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hiwm.analysis.figures import LEVEL_COLORS, draw_map
from hiwm.analysis.questions.study import Study


def color(level: int) -> str:
    """The colour of a level, the same in all figures."""
    return LEVEL_COLORS[level % len(LEVEL_COLORS)]


def maps(study: Study, axes: Sequence[Axes]) -> None:
    """Draw the map into every panel; the panels share their axes."""
    for each in axes:
        draw_map(each, study.walls, study.held_out.states, study.labels)


def plain(*axes: Axes) -> None:
    """Without the frame's top and right side."""
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)


def row_of(
    number: int, width: float = 3.7, height: float = 3.4, rows: int = 1
) -> tuple[Figure, Sequence[Sequence[Axes]]]:
    """A figure of `rows` x `number` panels."""
    figure = Figure(figsize=(max(7.0, width * number), height * rows), layout="constrained")
    return figure, figure.subplots(rows, number, squeeze=False).tolist()


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
