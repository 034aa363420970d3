"""What importers share: columns of an episode from nested observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Episode = dict[str, np.ndarray]


def observation_columns(observations: Any, prefix: str = "") -> Episode:
    """Columns of observations, which may be nested: a dict adds its keys with dots, a tuple its positions.

    Args:
        observations: an array (steps, ...), or a dict or a tuple of such.
        prefix: name so far.

    Returns:
        One array alone is called `pixels` if it holds images of bytes, else `state`. Text is left out.
    """
    if isinstance(observations, tuple):
        observations = {str(i): part for i, part in enumerate(observations)}
    if isinstance(observations, Mapping):
        parts = [
            observation_columns(part, f"{prefix}.{name}" if prefix else str(name))
            for name, part in observations.items()
        ]
        return {name: rows for part in parts for name, rows in part.items()}
    rows = np.asarray(observations)
    if rows.dtype.kind not in "iufb":
        return {}
    if rows.dtype.kind == "f":
        rows = rows.astype(np.float32, copy=False)
    return {prefix or ("pixels" if rows.dtype == np.uint8 and rows.ndim > 2 else "state"): rows}
