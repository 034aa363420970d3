"""What the actions of a dataset are: discrete or continuous, and around which values."""

from __future__ import annotations

import numpy as np

from hiwm.data.trajectories import Trajectories

ROWS = 20_000  # most rows that mean and standard deviation are computed from
CONSTANT = 1e-6  # relative to its mean, the standard deviation below which a number counts as constant


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
