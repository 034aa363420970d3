"""How fast what a level learns from changes, to hold its step and its window against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hiwm.data.store import Trajectories

EPISODES = 64  # evenly spaced ones that are looked at
# Of a process whose autocorrelation falls as exp(-lag / time-scale). After 2 time-scales the beginning of a step tells
# e^-4 = 2 % of the variance of its end: there is nothing left to predict from. Within 0.01 time-scales it moves by
# sqrt(2 * 0.01) = a seventh of its deviation: copying is nearly right. Stacks that plan well here have steps of 0.005 to
# 0.9 and windows of 0.04 to 3.7 time-scales.
LONGEST_STEP, SHORTEST_WINDOW = 2.0, 0.01


def timescale(trajectories: Trajectories, inputs: Sequence[str]) -> float:
    """Environment steps after which the mean within-episode autocorrelation of the inputs falls below 1/e.

        r(lag) = mean over elements i of  E[x_i(t) x_i(t + lag)] / E[x_i(t)^2],

    x being the input less its episode's mean; elements that vary within no episode are left out. Between two lags r is
    taken to be a line. Taking the mean off leaves at most about a fifth of an episode to be found: what is slower than
    that looks like it.

    Returns:
        The time-scale; nan where nothing varies within episodes.
    """
    chosen = np.unique(np.linspace(0, len(trajectories.ep_len) - 1, EPISODES).round().astype(int))
    longest = int(trajectories.ep_len[chosen].max())
    products, counts = 0.0, np.zeros(longest)
    for episode in chosen:
        first, length = int(trajectories.ep_offset[episode]), int(trajectories.ep_len[episode])
        columns = [np.array(trajectories.column(name)[first : first + length], float) for name in inputs]
        x = np.concatenate([column.reshape(length, -1) for column in columns], 1)  # (length, elements)
        spectrum = np.fft.rfft(x - x.mean(0), 2 * longest, axis=0)  # padded: no wrapping round
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
    """What does not fit the time-scale of what a level learns from, in words; "" where all does.

    Args:
        period: environment steps in one step of the level.
        window: environment steps of a training window.
        scale: the time-scale; nothing is said of nan.
    """
    if period > LONGEST_STEP * scale:
        return f"one step is {period} environment steps, of which the time-scale of what it learns from is only {scale:.1f}"
    if window < SHORTEST_WINDOW * scale:
        return f"its window is only {window} environment steps; the time-scale of what it learns from is {scale:.0f}"
    return ""
