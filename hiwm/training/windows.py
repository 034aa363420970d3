"""Which part of the data the windows of each level can use."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from hiwm.data.store import Trajectories
from hiwm.training.specs import HierarchyConfig

log = logging.getLogger("hiwm")

MIN_STARTS = 0.25  # share of the rows; below it a level sees little more than the beginnings of episodes


@dataclass(frozen=True)
class WindowCoverage:
    """What a level can use of the data.

    Args:
        level: its number.
        period: environment steps in one of its steps.
        rows: rows of a training window.
        episodes: share of the episodes that are long enough for a window.
        starts: share of the rows at which a window can begin.
    """

    level: int
    period: int
    rows: int
    episodes: float
    starts: float


LONGER = "collect longer episodes (dataset.steps)"


def check_longest(config: HierarchyConfig, longest: int, where: object, advice: str = LONGER) -> None:
    """Refuse episodes that are all shorter than a level's window; the message names the level.

    Args:
        config: the levels.
        longest: rows of the longest episode.
        where: the source of the episodes, for the message.
        advice: what else helps than shorter windows.
    """
    for k, period, rows in _windows(config):
        if longest < rows:
            raise ValueError(
                f"levels.level{k}: a window of {(rows - 1) // period} steps of {period} environment steps needs episodes of {rows} "
                f"rows; the longest of {where} has {longest}. Lower levels.level{k}.horizon or a stride, or {advice}"
            )


def check_split(config: HierarchyConfig, trajectories: Trajectories) -> None:
    """Refuse training or held-out episodes that are all shorter than a level's window."""
    parts = trajectories.split(config.validation)
    for part, which in zip(parts, ("first", "last"), strict=True):
        used = "held out for validation" if which == "last" else "trained on"
        where = f"the {which} {len(part.ep_len)} episodes of {trajectories.path}, which are {used},"
        advice = f"change dataset.validation, which is {config.validation}, or the order of the episodes"
        check_longest(config, int(part.ep_len.max()), where, advice)


def check_windows(config: HierarchyConfig, trajectories: Trajectories) -> list[WindowCoverage]:
    """How much of the data each level can use; raises as `check_longest` does."""
    check_longest(config, int(trajectories.ep_len.max()), trajectories.path)
    found = []
    for k, period, rows in _windows(config):
        episodes = float((trajectories.ep_len >= rows).mean())
        starts = float(trajectories.starts_per_episode(rows - 1).sum() / trajectories.num_steps)
        found.append(WindowCoverage(k, period, rows, episodes, starts))
        if starts < MIN_STARTS:
            log.warning(
                "level %d: its window of %d rows can begin at only %.0f %% of the rows of the data; lower "
                "levels.level%d.horizon or a stride", k, rows, 100 * starts, k,
            )  # fmt: skip
    return found


def _windows(config: HierarchyConfig) -> list[tuple[int, int, int]]:
    """For every level its number, the environment steps in one of its steps, and the rows of a window."""
    periods = np.cumprod(config.strides).tolist()
    return [
        (k, period, parts["horizon"] * period + 1)
        for k, (parts, period) in enumerate(zip(config.levels, periods, strict=True))
    ]
