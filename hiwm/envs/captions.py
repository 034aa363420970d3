"""Descriptions of states in words, for text goals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Caption(NamedTuple):
    """One statement about a state.

    Args:
        wordings: at least two ways to phrase it. The last one is never trained on; it measures how well the text head
            generalises to new wordings.
        true: for which of N observations the statement holds, (N,).
    """

    wordings: Sequence[str]
    true: np.ndarray
