"""What an environment says of its states in words, for text goals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Caption(NamedTuple):
    """One thing that can be said of a state.

    Args:
        wordings: ways to say it, at least two; the last is kept from training, to measure how well others are understood.
        true: of which of N observations it holds, (N,).
    """

    wordings: Sequence[str]
    true: np.ndarray
