"""Writes NumPy arrays in memory as a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiwm.data.columns import DatasetError
from hiwm.data.importers.episodes import observation_columns
from hiwm.data.store import Writer


def from_arrays(
    path: str | Path,
    episodes: Iterable[Mapping[str, Any]] | Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    lengths: Sequence[int] | None = None,
) -> Path:
    """Write arrays as a dataset.

    Args:
        path: the `.h5` file to write.
        episodes: one mapping for each episode, column name -> (steps, ...), with a column `action`; a nested mapping
            becomes columns with dotted names. Or one mapping of all: columns (episodes, steps, ...), or flat columns (N, ...) with
            `lengths`.
        metadata: facts to keep with the data.
        lengths: steps of each episode of flat columns.

    Returns:
        The path.

    Raises:
        DatasetError: columns have different lengths, names or types.
    """
    if isinstance(episodes, Mapping):
        columns = observation_columns(episodes)
        episodes = _stacked(path, columns) if lengths is None else _split(path, columns, lengths)
    with Writer(path, metadata or {}) as writer:
        for episode in episodes:
            writer.append(observation_columns(episode))
    return Path(path)


def _split(path: str | Path, flat: Mapping[str, np.ndarray], lengths: Sequence[int]) -> list[dict[str, np.ndarray]]:
    for name, rows in flat.items():
        if len(rows) != sum(lengths):
            raise DatasetError(
                f"{path}: lengths add up to {sum(lengths)}, but column {name!r} has {len(rows)} rows; expected equally many"
            )
    ends = np.cumsum(lengths)
    return [{name: rows[end - n : end] for name, rows in flat.items()} for n, end in zip(lengths, ends, strict=True)]


def _stacked(path: str | Path, columns: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The episodes of columns (episodes, steps, ...)."""
    shapes = {name: rows.shape[:2] for name, rows in columns.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) < 2 for shape in shapes.values()):
        raise DatasetError(
            f"{path}: the columns begin with the shapes {shapes}; expected (episodes, steps) for all. Give `lengths` for flat columns (N, ...)"
        )
    number = next(iter(shapes.values()))[0]
    return [{name: rows[i] for name, rows in columns.items()} for i in range(number)]
