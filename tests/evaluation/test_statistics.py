from __future__ import annotations

import numpy as np
import pytest

from hiwm.evaluation.statistics import bootstrap_interval, wilson_interval


@pytest.mark.parametrize(
    ("won", "of", "low", "high"),
    [  # reference values of the Wilson score interval, to three digits
        (9, 10, 0.596, 0.982),
        (0, 10, 0.0, 0.278),
        (10, 10, 0.722, 1.0),
        (5, 10, 0.237, 0.763),
        (1, 1, 0.207, 1.0),
        (250, 250, 0.985, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(won, of, low, high):
    assert wilson_interval(won, of) == pytest.approx((low, high), abs=6e-4)


def test_intervals_cover_the_mean_as_often_as_they_say():
    """Seeds and episodes both vary; with three seeds a bootstrap covers a little less than its nominal 95 %."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(60):
        chance = np.clip(0.6 + 0.1 * rng.normal(size=(10, 1, 1)), 0, 1)
        values = (rng.random((10, 5, 10)) < chance).astype(float)
        low, high = bootstrap_interval(values)
        covered.append(low <= 0.6 <= high)
    assert 0.85 <= np.mean(covered) <= 1


def test_equal_outcomes_have_the_margin_of_a_wilson_interval():
    margin = wilson_interval(0, 24)[1]
    assert bootstrap_interval(np.ones((2, 3, 4)), lowest=0.0) == (pytest.approx(1 - margin), 1)
    assert bootstrap_interval(np.zeros((2, 3, 4)), lowest=0.0) == (0, pytest.approx(margin))
    assert bootstrap_interval(np.zeros((2, 3, 4))) == (pytest.approx(-margin), pytest.approx(margin))


@pytest.mark.parametrize("episodes", [1, 2, 4])
def test_one_task_of_five_with_few_episodes_is_not_beyond_chance(episodes):
    difference = np.zeros((1, 5, episodes))
    difference[0, 0] = 1
    low, high = bootstrap_interval(difference)
    assert low <= 0.05
    assert high >= 0.4


def test_differences_of_paired_episodes_are_narrower():
    rng = np.random.default_rng(0)
    easy = rng.random((2, 5, 20)) < rng.random((1, 5, 20))
    better = easy | (rng.random((2, 5, 20)) < 0.1)
    low, high = bootstrap_interval(better.astype(float) - easy)
    alone = bootstrap_interval(better.astype(float))
    assert high - low < alone[1] - alone[0]
    assert low > 0
