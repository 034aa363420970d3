from __future__ import annotations

import pytest

from hiwm.evaluation.statistics import wilson_interval


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
