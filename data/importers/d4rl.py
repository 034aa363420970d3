"""D4RL's HDF5 files: flat `observations` and `actions`; `terminals` or `timeouts` is true in the last row of each episode.

Layout: https://github.com/Farama-Foundation/D4RL. The observation that follows the last action is not in the file, so the last
action of an episode leads nowhere, as in hiwm's own files.
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

NAME = "D4RL"


def recognises(path: Path) -> bool:
    """Whether the file has D4RL's arrays."""
    if not path.is_file():
        return False
    try:
        with h5py.File(path, "r") as file:
            return {"observations", "actions", "terminals"} <= set(file) and "ep_len" not in file
    except (KeyError, OSError, RuntimeError, ValueError):  # no HDF5, or damaged
        return False


def episodes(path: Path) -> Iterator[Episode]:
    """One episode at a time: `state` (or `pixels`), `action`, and `reward` where there are rewards."""
    with h5py.File(path, "r") as opened:
        file: Any = dict(flatten(path, opened))  # refuses links to other files
        total = len(file["observations"])
        ends = np.asarray(file["terminals"][:], bool)
        if "timeouts" in file:
            ends = ends | np.asarray(file["timeouts"][:], bool)
        if len(ends) != total or len(file["actions"]) != total:
            raise DatasetError(
                f"{path}: observations has {total} rows, actions {len(file['actions'])} and terminals {len(ends)}; expected equally many"
            )
        bounds = np.union1d(np.flatnonzero(ends) + 1, [total])  # a file may end within an episode
        start = 0
        for stop in bounds.tolist():
            episode = observation_columns(file["observations"][start:stop]) | {"action": file["actions"][start:stop]}
            if "rewards" in file:
                episode["reward"] = np.asarray(file["rewards"][start:stop], np.float32)
            yield episode
            start = stop
