"""Kind and range of the actions of a dataset: discrete or continuous, smallest and largest values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from hiwm.data.columns import DatasetError, blocks
from hiwm.data.trajectories import Trajectories

ROWS = 20_000  # most rows that mean and standard deviation are computed from
CONSTANT = 1e-6  # relative to its mean, the standard deviation below which a number counts as constant


@dataclass(frozen=True)
class ActionRange:
    """The actions of a dataset.

    Args:
        low, high: smallest and largest value of each number of an action, (A,).
        discrete: whether all of them are one-hot vectors.
    """

    low: np.ndarray
    high: np.ndarray
    discrete: bool


def action_range(dataset: Trajectories) -> ActionRange:
    """Read the actions piece by piece, without those of the episodes' last rows, which lead nowhere.

    Raises:
        DatasetError: no episode has two rows.
    """
    lows, highs, discrete = [], [], True
    for _, actions in _executed(dataset, dataset.column("action")):
        actions = actions.reshape(len(actions), -1)
        lows.append(actions.min(0))
        highs.append(actions.max(0))
        discrete = discrete and is_one_hot(actions)
    if not lows:
        raise DatasetError(
            f"{dataset.path}: no episode has two rows; expected actions that lead from one row to the next"
        )
    return ActionRange(np.min(lows, 0), np.max(highs, 0), discrete)


def fit_to_space(dataset: Trajectories, space: Any, name: object) -> Trajectories:
    """These episodes, with discrete actions numbered as in the action space of the environment.

    Args:
        dataset: the episodes.
        space: the environment's action space.
        name: name of the environment, for messages.

    Raises:
        DatasetError: the environment cannot execute the actions; the message says which.
    """
    column, width = dataset.columns["action"], int(np.prod(dataset.column("action").shape[1:]))
    if isinstance(space, spaces.Discrete):
        start, number = int(space.start), int(space.n)
        if dataset.has_numbered_actions:
            _check_numbers(dataset, start, start + number - 1, name)
            return dataset.numbered(start, number)
        expected, wanted = f"whole numbers, or one-hot vectors of {number} numbers", width == number
    elif isinstance(space, spaces.Box):
        size = int(np.prod(space.shape))
        numbers = "1 number" if size == 1 else f"{size} numbers"
        expected = f"{numbers} of type float" if dataset.has_numbered_actions else numbers
        wanted = width == size and not dataset.has_numbered_actions
    else:
        return dataset
    if not wanted:
        raise DatasetError(
            f"{dataset.path}: column 'action' is {column.dtype} {tuple(column.shape)}; expected {expected} in each row, because the "
            f"action space of {name} is {space}"
        )
    return dataset


def _check_numbers(dataset: Trajectories, least: int, most: int, name: object) -> None:
    """Refuse whole numbers that stand for no action of the environment."""
    for rows, actions in _executed(dataset, dataset.columns["action"]):
        actions = actions.reshape(-1)
        bad = np.flatnonzero((actions < least) | (actions > most))
        if len(bad):
            row = int(rows[bad[0]])
            episode, step = dataset.place(row)
            raise DatasetError(
                f"{dataset.path}: column 'action' is {actions[bad[0]]} in row {row}, which is step {step} of episode {episode}; "
                f"expected whole numbers from {least} to {most}, the actions of {name}"
            )


def _executed(dataset: Trajectories, column: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers (n,) and rows (n, ...) of a column, piece by piece, without the last row of each episode."""
    last, start = dataset.ep_offset + dataset.ep_len - 1, 0
    for block in blocks(column):
        rows = np.arange(start, start + len(block))
        start += len(block)
        place = np.minimum(np.searchsorted(last, rows), len(last) - 1)
        kept = (last[place] > rows) & (rows >= dataset.ep_offset[0])
        if kept.any():
            yield rows[kept], block[kept]


def is_one_hot(actions: np.ndarray) -> bool:
    """Whether all of them (N, A) are one-hot vectors, which is how discrete actions are stored."""
    return actions.shape[1] > 1 and bool(np.isin(actions, (0, 1)).all() and (actions.sum(1) == 1).all())


def action_statistics(dataset: Trajectories) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each number of an action, (A,) each; 0 and 1 for discrete actions.

    The last row of an episode leads nowhere, so its action does not count. A constant number has the standard deviation 1.
    """
    column, rows = dataset.column("action"), dataset.starts(1)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).round().astype(np.int64))]
    actions = np.asarray(column[rows], np.float64).reshape(len(rows), -1)
    if is_one_hot(actions):
        return np.zeros(actions.shape[1], np.float32), np.ones(actions.shape[1], np.float32)
    mean, std = actions.mean(0), actions.std(0)
    varies = std > CONSTANT * np.abs(mean)
    return mean.astype(np.float32), np.where(varies, std, 1.0).astype(np.float32)
