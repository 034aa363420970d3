"""Minari datasets, read by the package `minari`: folders that `minari download` puts below ~/.minari/datasets.

Layout: https://minari.farama.org. An episode of T actions has T + 1 observations; the added last action is zero and leads nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hiwm.data.columns import DatasetError
from hiwm.data.hdf5 import flatten
from hiwm.data.importers.episodes import Episode, observation_columns

NAME = "Minari"


def recognises(path: Path) -> bool:
    """Whether the path is the folder of a Minari dataset, or its `data` folder."""
    return _data(path) is not None


def episodes(path: Path) -> Iterator[Episode]:
    """One episode at a time: observations (`state`, `pixels` or their own names), `action` and `reward`."""
    try:
        from minari import MinariDataset  # an optional package
    except ImportError as error:
        raise DatasetError(f"{path} needs the package minari. Install it: pip install 'hiwm[data]'") from error
    data = _data(path)
    assert data is not None, "the caller has recognised the path"
    if (data / "main_data.hdf5").is_file():
        with h5py.File(data / "main_data.hdf5", "r") as file:
            for _ in flatten(data / "main_data.hdf5", file):  # refuses links to other files
                pass
    dataset: Any = MinariDataset(data)
    for episode in dataset.iterate_episodes():
        columns = observation_columns(episode.observations)
        actions = observation_columns(_one_hot(episode.actions, dataset.action_space), "action")
        steps = len(episode.rewards)
        padded = {name: np.concatenate([rows, np.zeros_like(rows[:1])])[: steps + 1] for name, rows in actions.items()}
        reward = np.append(np.asarray(episode.rewards, np.float32), np.float32(0))
        rows = min(steps + 1, *(len(column) for column in columns.values()))  # some datasets lack the last observation
        yield {name: column[:rows] for name, column in {**columns, **padded, "reward": reward}.items()}


def _one_hot(actions: Any, space: Any) -> Any:
    """Discrete actions as one-hot vectors of all actions of the space, whether the data holds them all or not."""
    if type(space).__name__ != "Discrete":
        return actions
    return np.eye(int(space.n), dtype=np.float32)[np.asarray(actions) - int(space.start)]


def _data(path: Path) -> Path | None:
    return next(
        (folder for folder in (path / "data", path) if (folder / "metadata.json").is_file() and _has_data(folder)), None
    )


def _has_data(folder: Path) -> bool:
    return (folder / "main_data.hdf5").is_file() or any(folder.glob("*/0.parquet")) or any(folder.glob("*.parquet"))
