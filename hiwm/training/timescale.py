"""The time scale of the data that a level learns from, to compare with its step and its training window."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hiwm.data.store import Trajectories

EPISODES = 64  # most episodes that are used, evenly spaced
# In time scales, for a process whose autocorrelation falls as exp(-lag / time scale). After 2 time scales, the beginning of
# a step explains linearly and without the actions e^-4 = 2 % of the variance of its end. This is a rule of thumb: actions
# and non-linear models can explain more. Within 0.01 time scales the process
# moves by sqrt(2 * 0.01) = a seventh of its standard deviation, so that copying is nearly right. Hierarchies that
# planned well in our experiments had steps of 0.005 to 0.9 and windows of 0.04 to 3.7 time scales.
LONGEST_STEP, SHORTEST_WINDOW = 2.0, 0.01


def timescale(trajectories: Trajectories, inputs: Sequence[str]) -> float:
    """Environment steps after which the mean within-episode autocorrelation of the inputs falls below 1/e.

        r(lag) = mean over elements i of  E[x_i(t) x_i(t + lag)] / E[x_i(t)^2],

    where x is the input minus the mean of its episode. Elements that are constant within every episode are left out. r
    is interpolated linearly between two lags. Because the mean is subtracted, the result is at most about a fifth of an
    episode, also for slower inputs.

    Returns:
        The time scale; NaN if nothing varies within episodes.
    """
    chosen = np.unique(np.linspace(0, len(trajectories.ep_len) - 1, EPISODES).round().astype(int))
    longest = int(trajectories.ep_len[chosen].max())
    products, counts = 0.0, np.zeros(longest)
    for episode in chosen:
        first, length = int(trajectories.ep_offset[episode]), int(trajectories.ep_len[episode])
        columns = [np.array(trajectories.column(name)[first : first + length], float) for name in inputs]
        x = np.concatenate([column.reshape(length, -1) for column in columns], 1)  # (length, elements)
        spectrum = np.fft.rfft(x - x.mean(0), 2 * longest, axis=0)  # padded, so that lags do not wrap around
        products = products + np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[:longest]
        counts[:length] += np.arange(length, 0, -1)
    covariance = products / counts[:, None]
    varies = covariance[0] > 1e-9
    if not varies.any():
        return math.nan
    r = (covariance[:, varies] / covariance[0, varies]).mean(1)
    below = np.flatnonzero(r < 1 / math.e)
    if len(below) == 0:  # episodes of two rows or so
        return float(longest)
    after = int(below[0])
    return after - 1 + float((r[after - 1] - 1 / math.e) / (r[after - 1] - r[after]))


def out_of_scale(period: int, window: int, scale: float) -> str:
    """A warning if the step or the window of a level does not fit the time scale of its data; "" otherwise.

    Args:
        period: environment steps in one step of the level.
        window: environment steps of a training window.
        scale: the time scale; there is no warning for NaN.
    """
    if period > LONGEST_STEP * scale:
        return f"one step is {period} environment steps, but the time scale of its data is only {scale:.1f}"
    if window < SHORTEST_WINDOW * scale:
        return f"its window is only {window} environment steps, but the time scale of its data is {scale:.0f}"
    return ""
