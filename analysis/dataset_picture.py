"""`hiwm data show`: a picture of some episodes of a dataset."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hiwm.console import say
from hiwm.data.store import Trajectories, open_dataset

EPISODES, FRAMES = 4, 8  # drawn, at most
LINES = 8  # numbers of a column that are drawn


def show(path: str, picture: str) -> None:
    """Draw evenly spaced episodes of a dataset: frames of its images and curves of its other columns.

    Args:
        path: the dataset.
        picture: the PNG file to write.
    """
    draw(open_dataset(path)).savefig(picture, dpi=110)
    say(f"picture: {picture}")


def draw(dataset: Trajectories) -> Figure:
    """One column of panels for each episode, one row for each column of the dataset."""
    number = min(EPISODES, len(dataset.ep_len))
    chosen = np.linspace(0, len(dataset.ep_len) - 1, number).round().astype(int)
    names = sorted(dataset.columns, key=lambda name: (not is_image(dataset.columns[name]), name))
    figure = Figure(figsize=(4.2 * number, 1.9 * len(names) + 0.6), layout="constrained")
    grid = figure.subplots(len(names), number, squeeze=False)
    for i, name in enumerate(names):
        for j, episode in enumerate(chosen.tolist()):
            first, length = int(dataset.ep_offset[episode]), int(dataset.ep_len[episode])
            axes = grid[i, j]
            if is_image(dataset.columns[name]):
                _frames(axes, dataset.columns[name], first, length)
            else:
                _curves(axes, dataset.column(name)[first : first + length])
                if j == number - 1 and len(axes.lines) > 1:  # the same colours in all episodes
                    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=1)
            if j == 0:
                axes.set_ylabel(_title(name, dataset.columns[name]))
            if i == len(names) - 1:
                axes.set_xlabel("row of the episode (environment step)", fontsize=8)
            if i == 0:
                axes.set_title(f"episode {episode}, {length} rows", fontsize=10)
    return figure


def _title(name: str, column: Any) -> str:
    numbers = math.prod(column.shape[1:])
    return name if is_image(column) or numbers <= LINES else f"{name}\nfirst {LINES} of {numbers}"


def is_image(column: Any) -> bool:
    """Whether rows are images: (H, W), (H, W, C) or (C, H, W)."""
    return column.ndim in (3, 4) and min(column.shape[1:]) >= 1 and sorted(column.shape[1:])[-2] >= 8


def _frames(axes: Axes, column: Any, first: int, length: int) -> None:
    moments = np.linspace(0, length - 1, min(FRAMES, length)).round().astype(int)
    frames = np.asarray(column[first + moments])
    if frames.ndim == 4 and frames.shape[1] in (1, 3, 4) and frames.shape[-1] not in (1, 3, 4):
        frames = frames.transpose(0, 2, 3, 1)
    frames = frames[..., 0] if frames.ndim == 4 and frames.shape[-1] not in (3, 4) else frames
    if frames.dtype != np.uint8:
        low, high = frames.min(), frames.max()
        frames = (frames - low) / (high - low or 1)
    axes.imshow(np.concatenate(list(frames), 1), cmap="gray", aspect="equal")
    width = frames.shape[2]
    axes.set_xticks([(i + 0.5) * width for i in range(len(moments))], [str(m) for m in moments], fontsize=7)
    axes.set_yticks([])


def _curves(axes: Axes, rows: np.ndarray) -> None:
    for i, numbers in enumerate(rows.reshape(len(rows), -1).T[:LINES]):
        axes.plot(numbers, lw=0.9, label=f"[{i}]")
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
