"""Datasets of other people: what cannot work is refused by `hiwm train` in one line, before any training."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tiny

from hiwm.cli import main
from hiwm.data.store import Writer


def train(tmp_path, capsys, episodes, *more):
    """Write episodes of (state, action), train on them; the exit status and the message."""
    with Writer(tmp_path / "d.h5", {}) as writer:
        for state, action in episodes:
            writer.append({"state": state, "action": action})
    status = main(
        [
            "train",
            *tiny.overrides(tmp_path, f"dataset.path={tmp_path / 'd.h5'}", "tracking=none", "training.steps=1", *more),
        ]
    )
    return status, capsys.readouterr().err


def walk(rng, rows, kind=np.float32, offset=0.0):
    action = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    return (offset + np.cumsum(0.05 * np.float64(action), 0)).astype(kind), action


def walks(lengths, **how):
    rng = np.random.default_rng(0)
    return [walk(rng, rows, **how) for rows in lengths]


@pytest.mark.parametrize(("lengths", "which"), [
    ([60] * 8 + [2, 2], "the last 2 episodes of .*d.h5, which are held out for validation, has 2"),
    ([2] * 8 + [60, 60], "the first 8 episodes of .*d.h5, which are trained on, has 2"),
])  # fmt: skip
def test_the_short_part_of_a_split_is_named(tmp_path, capsys, lengths, which):
    status, message = train(tmp_path, capsys, walks(lengths))
    assert status == 2
    assert re.search(f"levels.level0: a window of .* {which}. .* change dataset.validation, which is 0.2", message), (
        message
    )


def test_inputs_that_never_change_are_refused(tmp_path, capsys):
    still = [(np.full_like(state, 0.3), action) for state, action in walks([60] * 10)]
    status, message = train(tmp_path, capsys, still)
    assert status == 2
    assert "inputs is ['state'], which never change in" in message


def test_an_input_that_changes_once_is_enough(tmp_path, capsys):
    episodes = [(np.zeros_like(state), action) for state, action in walks([60] * 10)]
    episodes[3][0][17] = 1  # in none of the rows that are looked at first
    assert "never change" not in train(tmp_path, capsys, episodes, "graph.num_nodes=10000")[1]


@pytest.mark.parametrize(
    ("kind", "offset", "coarse"), [(np.float64, 5e6, True), (np.float64, 2e9, True), (np.float64, 1e3, False)]
)
def test_numbers_that_float32_cannot_tell_apart_are_named(tmp_path, capsys, caplog, kind, offset, coarse):
    train(tmp_path, capsys, walks([60] * 10, kind=kind, offset=offset), "graph.num_nodes=10000")
    assert ("column 'state' varies by" in caplog.text) == coarse, caplog.text


def test_actions_that_the_environment_does_not_have_are_refused(tmp_path, capsys):
    environment = "environment._target_=tiny.DiscreteRoom"
    rng = np.random.default_rng(0)
    episodes = [(walk(rng, 60)[0], rng.integers(0, 5, 60)) for _ in range(10)]
    episodes[2][1][7] = 5
    status, message = train(tmp_path, capsys, episodes, environment)
    assert status == 2
    assert (
        "column 'action' is 5 in row 127, which is step 7 of episode 2; expected whole numbers from 0 to 4" in message
    )
    status, message = train(tmp_path, capsys, walks([60] * 10), environment)
    assert status == 2
    assert "column 'action' is float32 (600, 2); expected whole numbers, or one-hot vectors of 5 numbers" in message
    three = [(state, np.repeat(action[:, :1], 3, 1)) for state, action in walks([60] * 10)]
    status, message = train(tmp_path, capsys, three)
    assert status == 2
    assert "column 'action' is float32 (600, 3); expected 2 numbers in each row" in message
