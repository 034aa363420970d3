"""The discrete inputs of a level, and the states that their values make up."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

MOST_VALUES = 8  # of a discrete input
APART = 1e-3  # values nearer than this are one, up to rounding,
ROUNDED = 8  # in at most so many ways
TOLERANCE = 0.2  # of the gap between two values of an input, by which a value may be off


class DiscreteInputs:
    """The inputs that take few values, such as the states of buttons; a state is a number that stands for a value of each.

    Args:
        inputs: rows of inputs, (N, X).

    Raises:
        ValueError: no input takes between two and eight values, or there are too many of them.

    Attributes:
        columns: which inputs are discrete, (C,).
        largest: largest value of each, (C,).
        gaps: least difference of two values of each, (C,).
    """

    def __init__(self, inputs: Tensor) -> None:
        found = discrete_values(inputs)
        if not found:
            raise ValueError(
                f"none of the {inputs.shape[1]} inputs takes between 2 and {MOST_VALUES} values in the data; expected discrete inputs, such as "
                "the states of buttons, for imagined_distance"
            )
        self.columns = torch.tensor(list(found), device=inputs.device)
        self.values = list(found.values())
        self.largest = torch.stack([values[-1] for values in self.values])
        self.gaps = torch.stack([values.diff().min() for values in self.values])
        sizes = [len(values) for values in self.values]
        if math.prod(sizes) >= 2**62:
            raise ValueError(f"{len(found)} of the inputs are discrete and make up 2^62 states or more; expected fewer")
        self.places = np.cumprod([1, *sizes[:-1]])
        self.sizes = np.array(sizes)

    def read(self, inputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The states of rows (N, X), (N,), and whether each value is near one that occurs in the data, (N,)."""
        state, sure = np.zeros(len(inputs), np.int64), np.ones(len(inputs), bool)
        for column, values, gap, place in zip(self.columns.tolist(), self.values, self.gaps, self.places, strict=True):
            apart, nearest = (inputs[:, column].unsqueeze(1) - values).abs().min(1)
            state += place * nearest.cpu().numpy()
            sure &= (apart <= TOLERANCE * gap).cpu().numpy()
        return state, sure

    def of(self, states: np.ndarray) -> Tensor:
        """The values of the discrete inputs in states (N,), (N, C)."""
        digits = torch.from_numpy(states[:, None] // self.places % self.sizes).to(self.columns.device)
        return torch.stack([values[digit] for values, digit in zip(self.values, digits.unbind(1), strict=True)], 1)

    def put(self, inputs: Tensor, states: np.ndarray) -> Tensor:
        """The rows (N, X) with the discrete inputs of states (N,)."""
        return inputs.index_copy(1, self.columns, self.of(states))


def discrete_values(inputs: Tensor) -> dict[int, Tensor]:
    """Which of the inputs (N, X) take between two and eight values, and these, in order."""
    found = {k: _distinct(column) for k, column in enumerate(inputs.unbind(1))}
    return {k: values for k, values in found.items() if 2 <= len(values) <= MOST_VALUES}


def _distinct(values: Tensor) -> Tensor:
    """The distinct values of (N,), in order; of those that are one but for rounding, the first."""
    ordered = values.unique()
    if len(ordered) > MOST_VALUES * ROUNDED:  # continuous: neighbours are near each other, and not one
        return ordered
    return ordered[torch.cat([torch.ones_like(ordered[:1], dtype=torch.bool), ordered.diff() > APART])]
