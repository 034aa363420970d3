"""The discrete inputs of a level, and the states that their values make up."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

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
        values: of each, in order, (C, V); infinity after the last.
        largest: largest value of each, (C,).
        gaps: least difference of two values of each, (C,).
    """

    def __init__(self, inputs: Tensor) -> None:
        self.columns, self.values = discrete_values(inputs)
        if not len(self.columns):
            raise ValueError(
                f"none of the {inputs.shape[1]} inputs takes between 2 and {MOST_VALUES} values in the data; expected discrete inputs, such as "
                "the states of buttons, for imagined_distance"
            )
        finite = self.values.isfinite()
        self.largest = self.values.where(finite, -torch.inf).amax(1)
        self.gaps = self.values.diff().where(finite[:, 1:], torch.inf).amin(1)
        sizes = finite.sum(1).tolist()
        if math.prod(sizes) >= 2**62:
            raise ValueError(f"{len(sizes)} of the inputs are discrete and make up 2^62 states or more; expected fewer")
        self.places = np.cumprod([1, *sizes[:-1]])
        self.sizes = np.array(sizes)

    def read(self, inputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The states of rows (N, X), (N,), and whether each value is near one that occurs in the data, (N,)."""
        apart, nearest = nearest_values(inputs[:, self.columns], self.values)
        return nearest.cpu().numpy() @ self.places, (apart <= TOLERANCE * self.gaps).all(1).cpu().numpy()

    def of(self, states: np.ndarray) -> Tensor:
        """The values of the discrete inputs in states (N,), (N, C)."""
        digits = torch.from_numpy(states[:, None] // self.places % self.sizes).to(self.columns.device)
        return self.values[torch.arange(len(self.values), device=digits.device), digits]

    def put(self, inputs: Tensor, states: np.ndarray) -> Tensor:
        """The rows (N, X) with the discrete inputs of states (N,)."""
        return inputs.index_copy(1, self.columns, self.of(states))


def discrete_values(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the inputs (N, X) take between two and eight values, (C,), and these in order, then infinity, (C, V)."""
    distinct = [_distinct(column) for column in inputs.unbind(1)]
    found = {k: values for k, values in enumerate(distinct) if 2 <= len(values) <= MOST_VALUES}
    columns = torch.tensor(list(found), dtype=torch.long, device=inputs.device)
    if not found:
        return columns, inputs.new_empty(0, 0)
    return columns, nn.utils.rnn.pad_sequence(list(found.values()), batch_first=True, padding_value=torch.inf)


def nearest_values(inputs: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of discrete inputs (..., C) to the nearest of their values (C, V), and which it is, (..., C) each."""
    return (inputs.unsqueeze(-1) - values).abs().min(-1)


def _distinct(values: Tensor) -> Tensor:
    """The distinct values of (N,), in order; of those that are one but for rounding, the first."""
    ordered = values.unique()
    if len(ordered) > MOST_VALUES * ROUNDED:  # continuous: neighbours are near each other, and not one
        return ordered
    return ordered[torch.cat([torch.ones_like(ordered[:1], dtype=torch.bool), ordered.diff() > APART])]
