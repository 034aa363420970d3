"""What the figures of the questions share: a row of maps, one per level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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


def arrows(axes: Axes, start: np.ndarray, moved: np.ndarray, hue: str, factor: float = 1.0) -> None:
    """Arrows from states (N, 2), `factor` times as long as the state moves, (N, 2)."""
    if len(start):
        style = {"angles": "xy", "scale_units": "xy", "width": 0.006, "headwidth": 3.5, "zorder": 3}
        axes.quiver(*start.T, *moved.T, color=hue, scale=1 / factor, **style)


def magnification(study: Study, moved: np.ndarray) -> int:
    """How many times as long arrows (..., 2) must be drawn so that a typical one is a twentieth of the map."""
    width = np.ptp(study.held_out.states[:, :2], axis=0).max()
    lengths = np.linalg.norm(moved, axis=-1)
    lengths = lengths[lengths > 0]
    return max(1, round(width / (20 * np.median(lengths)))) if len(lengths) else 1


def titled(title: str, factor: int) -> str:
    """The title of a panel whose arrows are magnified."""
    return title if factor == 1 else f"{title} (arrows ×{factor})"  # noqa: RUF001


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
