"""The states that the episode viewer shows in place of latents."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hiwm.analysis.decode import StateDecoder
from hiwm.data.columns import read_rows
from hiwm.data.store import Trajectories
from hiwm.data.views import JoinedColumn
from hiwm.evaluation.frames import as_frames

SHOWN = 20  # numbers of a state that the page holds: the buttons of the largest puzzle
DIGITS = 4  # of its numbers
NONE = -1  # index of a state or a frame that there is none of


class ShownStates:
    """A table of states, which the page shows in place of latents: those that latents hold, or else real ones.

    Args:
        decoder: reads the state that a latent holds, or finds the real one whose latent is nearest.
        dataset: of the states.
        state: columns of the true state.
        image: input that is an image; None without one.
    """

    def __init__(self, decoder: StateDecoder, dataset: Trajectories, state: Sequence[str], image: str | None) -> None:
        self.decoder, self.dataset, self.columns, self.image = decoder, dataset, state, image
        #: dataset row of a state, or the numbers of one that a latent holds -> its place in the table
        self.places: dict[int | tuple[float, ...], int] = {}

    def of_latents(self, level: int, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of the states of latents (..., D), and distances of the latents to the nearest real ones, (...); NONE and NaN for NaN."""
        flat = latents.reshape(-1, latents.shape[-1])
        place, distance = np.full(len(flat), NONE), np.full(len(flat), np.nan, np.float32)
        known = np.isfinite(flat).all(1)
        distinct, back = np.unique(flat[known], axis=0, return_inverse=True)
        index, apart = self.decoder.nearest(level, distinct)
        held = self.decoder.held(level, distinct)
        keys = self.decoder.rows[index].tolist() if held is None else map(tuple, rounded(held[:, :SHOWN], DIGITS))
        place[known] = self._places(keys)[back.reshape(-1)]
        distance[known] = apart[back.reshape(-1)]
        return place.reshape(latents.shape[:-1]), distance.reshape(latents.shape[:-1])

    def at_rows(self, rows: np.ndarray) -> np.ndarray:
        """Places of the states of dataset rows, (N,) -> (N,)."""
        return self._places(rows.tolist())

    def _places(self, keys: Iterable[int | tuple[float, ...]]) -> np.ndarray:
        return np.array([self.places.setdefault(key, len(self.places)) for key in keys], int)

    def numbers(self) -> list[list[Any]]:
        """The first numbers of every state in the table."""
        rows = np.array([key for key in self.places if isinstance(key, int)], int)
        columns = JoinedColumn([self.dataset.column(name) for name in self.columns], SHOWN)
        real = dict(zip(rows.tolist(), columns[rows], strict=True))
        return rounded(np.array([real[key] if isinstance(key, int) else key for key in self.places]), DIGITS)

    def frames(self, places: Sequence[int]) -> np.ndarray:
        """Frames of some real states, (N, H, W, C)."""
        assert self.image is not None, "asked only where an input is an image, so that all states are real"
        rows = np.array(list(self.places), int)[np.array(places, int)]
        return as_frames(read_rows(self.dataset.column(self.image), rows))


def rounded(values: np.ndarray, digits: int) -> Any:
    """Nested lists of numbers with so many significant digits; None for what is not finite."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(each) for each in value]
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None

    return short(np.asarray(values, np.float64).tolist())
