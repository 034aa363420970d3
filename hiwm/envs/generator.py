"""Exact seeds for environments that draw from numpy's global generator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def lend_generator(random: np.random.RandomState) -> Iterator[None]:
    """Inside the `with` numpy's global generator goes on from `random`; after it, it is as it was before."""
    before = np.random.get_state()
    np.random.set_state(random.get_state())
    try:
        yield
    finally:
        random.set_state(np.random.get_state())
        np.random.set_state(before)
