"""The time-scale of a process that is known, and what does not fit it."""

import math
from pathlib import Path

import numpy as np
import pytest

from hiwm.data.store import Trajectories
from hiwm.training.timescale import out_of_scale, timescale


def dataset(**columns):
    """Of columns (episodes, steps, elements)."""
    episodes, length = next(iter(columns.values())).shape[:2]
    flat = {name: column.reshape(episodes * length, -1) for name, column in columns.items()}
    return Trajectories(Path("none"), flat, np.full(episodes, length), np.arange(episodes) * length)


def ar1(tau, length=3000, episodes=40, elements=3):
    rng, keep = np.random.default_rng(0), math.exp(-1 / tau)
    x = np.empty((episodes, length, elements))
    x[:, 0] = rng.normal(size=x[:, 0].shape)
    for t in range(1, length):
        x[:, t] = keep * x[:, t - 1] + math.sqrt(1 - keep**2) * rng.normal(size=x[:, 0].shape)
    return x


@pytest.mark.parametrize("tau", [2, 10, 60])
def test_of_an_autoregressive_process_it_is_the_one_it_was_made_with(tau):
    assert timescale(dataset(x=ar1(tau)), ["x"]) == pytest.approx(tau, rel=0.08)


def test_what_never_changes_within_an_episode_does_not_count():
    x = ar1(10)
    room = np.broadcast_to(np.arange(len(x))[:, None, None], (*x.shape[:2], 1))
    assert timescale(dataset(x=x, room=room), ["x", "room"]) == timescale(dataset(x=x), ["x"])
    assert math.isnan(timescale(dataset(room=room), ["room"]))


def test_of_one_cosine_it_is_where_its_autocorrelation_is_one_over_e():
    """The sums at long lags have fewer terms; a mean over all rows would find a shorter time-scale."""
    phase = 2 * math.pi * np.arange(100) / 100
    circle = np.stack([np.cos(phase), np.sin(phase)], 1)[None]
    assert timescale(dataset(x=circle), ["x"]) == pytest.approx(100 * math.acos(1 / math.e) / (2 * math.pi), rel=0.005)


def test_units_do_not_count():
    x = ar1(10)
    assert timescale(dataset(x=x * [1, 100, 0.01] + 7), ["x"]) == pytest.approx(timescale(dataset(x=x), ["x"]))


def test_episodes_of_other_lengths():
    x = ar1(10)
    lengths = np.array([1500, 400, 2, 1])
    flat = np.concatenate([x[i, :length] for i, length in enumerate(lengths)])
    data = Trajectories(Path("none"), {"x": flat}, lengths, np.cumsum([0, *lengths[:-1]]))
    assert timescale(data, ["x"]) == pytest.approx(10, rel=0.35)


def test_steps_too_long_and_windows_too_short_are_told():
    assert "one step is 30" in out_of_scale(30, 120, 10.0)
    assert "window is only 2" in out_of_scale(1, 2, 500.0)
    assert out_of_scale(10, 40, 10.0) == out_of_scale(10, 40, math.nan) == ""
