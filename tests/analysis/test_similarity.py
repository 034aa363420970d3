from __future__ import annotations

import numpy as np
import pytest
import worlds

from hiwm.analysis.similarity import cka_matrices, draw_cka, linear_cka

RNG = np.random.default_rng(0)


def test_rotated_latents_are_the_same():
    a = RNG.normal(size=(500, 4))
    rotation, _ = np.linalg.qr(RNG.normal(size=(4, 4)))
    assert linear_cka(a, 3 * a @ rotation + 7) == pytest.approx(1)


def test_independent_latents_are_not():
    assert linear_cka(RNG.normal(size=(2000, 4)), RNG.normal(size=(2000, 6))) < 0.02


def test_constant_latents_have_no_similarity():
    assert np.isnan(linear_cka(np.ones((50, 3)), RNG.normal(size=(50, 3))))


def test_other_states_are_refused():
    with pytest.raises(ValueError, match="have 5 and 6 rows; expected those of the same states"):
        linear_cka(np.zeros((5, 2)), np.zeros((6, 2)))


def test_a_matrix_for_every_level():
    agents = [worlds.study(matrix).agent for matrix in (((1, 0), (0, 1)), ((0, 1), (-1, 0)), ((1, 0), (0, 0)))]
    below, above = cka_matrices(agents, worlds.walks(), np.arange(1000))
    assert below == pytest.approx(np.ones((3, 3)))
    assert above[0, 1] == pytest.approx(1)
    assert above[0, 2] < 0.95
    draw_cka({"level 0": below, "level 1": above}, ["a", "b", "c"]).draw_without_rendering()
