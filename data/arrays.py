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
            becomes columns with dotted names. With `lengths`, one mapping of flat columns (N, ...).
        metadata: facts to keep with the data.
        lengths: steps of each episode of flat columns.

    Returns:
        The path.

    Raises:
        DatasetError: columns have different lengths, names or types.
    """
    if isinstance(episodes, Mapping):
        episodes = _split(path, observation_columns(episodes), lengths or ())
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
