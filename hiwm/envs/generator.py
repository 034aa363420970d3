"""Exact seeding of environments that draw from the global generator of numpy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def lend_generator(random: np.random.RandomState) -> Iterator[None]:
    """Inside the `with` block, the global generator of numpy continues from `random`; afterwards it is restored."""
    before = np.random.get_state()
    np.random.set_state(random.get_state())
    try:
        yield
    finally:
        random.set_state(np.random.get_state())
        np.random.set_state(before)
