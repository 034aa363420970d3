"""Actions of a dataset against the action space of an environment, and their range, read piece by piece."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from hiwm.data import columns
from hiwm.data.actions import action_range, fit_to_space
from hiwm.data.store import DatasetError, Trajectories


def made(tmp_path, actions):
    """Two episodes of five rows."""
    return Trajectories(tmp_path / "d.h5", {"action": np.asarray(actions)}, np.array([5, 5]), np.array([0, 5]))


NUMBERS = [2, 3, 2, 3, -7, 2, 4, 2, 4, 99]  # the last action of an episode is never executed


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.int32])
def test_numbers_become_vectors_of_the_actions_of_the_environment(tmp_path, kind):
    dataset = made(tmp_path, np.array(NUMBERS, kind))
    found = fit_to_space(dataset, spaces.Discrete(5, start=1), "the room")
    executed = [0, 1, 2, 3, 5, 6, 7, 8]
    np.testing.assert_array_equal(found.column("action")[executed].argmax(1) + 1, np.array(NUMBERS)[executed])
    assert found.column("action").shape == (10, 5)
    for part in found.split(0.5):  # also where episodes are held out
        assert part.column("action").shape == (10, 5)
    assert found.fingerprint != dataset.fingerprint


def test_the_data_s_own_numbers_keep_their_fingerprint(tmp_path):
    dataset = made(tmp_path, np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])[:, None])
    assert fit_to_space(dataset, spaces.Discrete(3), "the room").fingerprint == dataset.fingerprint
    binary = made(tmp_path, np.arange(10) % 2 == 0)
    assert fit_to_space(binary, spaces.Discrete(2), "the room").column("action").shape == (10, 2)


@pytest.mark.parametrize(("space", "row", "value", "wanted"), [
    (spaces.Discrete(4), 6, 4, "whole numbers from 0 to 3"),
    (spaces.Discrete(5, start=3), 0, 2, "whole numbers from 3 to 7"),
    (spaces.Discrete(2, start=-3), 0, 2, "whole numbers from -3 to -2"),
])  # fmt: skip
def test_numbers_that_the_environment_does_not_have_are_named(tmp_path, space, row, value, wanted):
    message = f"d.h5: column 'action' is {value} in row {row}, which is step {row % 5} of episode {row // 5}; expected {wanted}"
    with pytest.raises(DatasetError, match=message):
        fit_to_space(made(tmp_path, np.array(NUMBERS)), space, "the room")


def test_an_unsigned_number_is_never_below_zero(tmp_path):
    with pytest.raises(DatasetError, match=r"is 200 in row 0, .* from -3 to 1, the actions of the room"):
        fit_to_space(made(tmp_path, np.full(10, 200, np.uint8)), spaces.Discrete(5, start=-3), "the room")


@pytest.mark.parametrize(("actions", "space", "wanted"), [
    (np.zeros((10, 3), np.float32), spaces.Box(-1, 1, (2,)), "expected 2 numbers in each row"),
    (np.zeros(10, np.int64), spaces.Box(-1, 1, (1,)), "expected 1 number of type float in each row"),
    (np.zeros((10, 1), np.float32), spaces.Discrete(4), "expected whole numbers, or one-hot vectors of 4 numbers"),
    (np.eye(10, 3), spaces.Discrete(4), "expected whole numbers, or one-hot vectors of 4 numbers"),
])  # fmt: skip
def test_actions_of_another_size_are_refused(tmp_path, actions, space, wanted):
    with pytest.raises(DatasetError, match=f"d.h5: column 'action' is .*{wanted}"):
        fit_to_space(made(tmp_path, actions), space, "the room")


def test_actions_of_the_size_of_the_space_are_accepted(tmp_path):
    for actions, space in (
        (np.zeros((10, 2)), spaces.Box(-1, 1, (1, 2))), (np.eye(10, 4), spaces.Discrete(4)),
        (np.zeros((10, 2), np.int64), spaces.Box(0, 9, (2,), np.int64)),
    ):  # fmt: skip
        dataset = made(tmp_path, actions)
        assert fit_to_space(dataset, space, "the room") is dataset


def test_the_range_is_that_of_executed_actions(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (10, 2)).astype(np.float32)
    actions[[4, 9]] = 100
    whole = action_range(made(tmp_path, actions))
    executed = actions[[0, 1, 2, 3, 5, 6, 7, 8]]
    np.testing.assert_array_equal([whole.low, whole.high], [executed.min(0), executed.max(0)])
    assert not whole.discrete
    monkeypatch.setattr(columns, "BLOCK_BYTES", 24)  # three rows at once
    pieces = action_range(made(tmp_path, actions))
    np.testing.assert_array_equal([pieces.low, pieces.high], [whole.low, whole.high])
    assert action_range(made(tmp_path, np.eye(3)[np.arange(10) % 3])).discrete
    alone = Trajectories(tmp_path, {"action": actions}, np.ones(10, np.int64), np.arange(10))
    with pytest.raises(DatasetError, match="no episode has two rows"):
        action_range(alone)
