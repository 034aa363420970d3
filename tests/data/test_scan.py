"""The fingerprint covers every byte, and NaN is found with its place, before any training."""

import os
import time

import h5py
import numpy as np
import pytest
from test_store import make_episodes, write

from hiwm.cli import main
from hiwm.data import scan
from hiwm.data.store import DatasetError, open_dataset


@pytest.fixture
def scanned(monkeypatch, tmp_path):
    """Names of the cached files, and how often a column was read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []
    original = scan.scan_column
    monkeypatch.setattr(scan, "scan_column", lambda *a: calls.append(1) or original(*a))
    return calls


def old(path):
    """As if the file had been written an hour ago; the time of its change stays."""
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def test_every_row_counts(tmp_path):
    path = write(tmp_path / "data.h5", make_episodes(lengths=[100] * 200))
    found = {open_dataset(path).fingerprint}
    for row in (0, 1, 7777, 19_998, 19_999):
        with h5py.File(path, "r+", libver="latest") as file:
            file["state"][row, 0] += 1
        found.add(open_dataset(path).fingerprint)
    assert len(found) == 6


def test_a_file_is_read_once_until_it_changes(tmp_path, scanned, monkeypatch):
    path = write(tmp_path / "data.h5", make_episodes())
    monkeypatch.setattr(scan, "SETTLED", -1.0)
    first = open_dataset(path).fingerprint
    scanned.clear()
    assert open_dataset(path).fingerprint == first
    assert not scanned
    before = path.stat()
    with h5py.File(path, "r+", libver="latest") as file:
        file["state"][3, 1] += 1
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # size and time of modification stay
    assert path.stat().st_size == before.st_size
    assert open_dataset(path).fingerprint != first
    assert scanned


def test_a_file_written_just_now_is_not_trusted(tmp_path, scanned):
    path = write(tmp_path / "data.h5", make_episodes())
    assert open_dataset(path).fingerprint == open_dataset(path).fingerprint
    assert len(scanned) == 3 * 4  # when it was written, and twice here
    assert not list((tmp_path / "cache").rglob("*.json"))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"state": 3}'])
def test_a_broken_cache_is_read_over(tmp_path, scanned, monkeypatch, content):
    monkeypatch.setattr(scan, "SETTLED", -1.0)
    path = write(tmp_path / "data.h5", make_episodes())
    first = open_dataset(path).fingerprint
    for file in (tmp_path / "cache").rglob("*.json"):
        file.write_text(content)
    assert open_dataset(path).fingerprint == first


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    (tmp_path / "cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(scan, "SETTLED", -1.0)
    path = write(tmp_path / "data.h5", make_episodes())
    assert open_dataset(path).fingerprint == open_dataset(path).fingerprint


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("column", "row", "place"), [("state", 9, "row 9, which is step 3 of episode 2"), ("action", 15, "row 15, which is step 1 of episode 3"), ("state", 16, "row 16, which is step 2 of episode 3")])  # fmt: skip
def test_nan_is_refused_with_its_place(tmp_path, column, row, place, value):
    path = write(tmp_path / "data.h5", make_episodes())
    with h5py.File(path, "r+", libver="latest") as file:
        file[column][row, 1] = value
    dataset = open_dataset(path)
    with pytest.raises(DatasetError, match=rf"data\.h5: column {column!r} is NaN or infinite in {place}"):
        dataset.checked(["state", "action"])
    dataset.checked({"state", "action"} - {column})


def test_numbers_beyond_float32_are_infinite(tmp_path):
    episodes = [{"action": np.full((3, 1), 1e39)}]
    with pytest.raises(DatasetError, match="'action' is NaN or infinite in row 0"):
        open_dataset(write(tmp_path / "data.h5", episodes)).checked(["action"])


def test_the_last_action_of_an_episode_may_be_nan(tmp_path):
    episodes = make_episodes()
    for episode in episodes:
        episode["action"][-1] = np.nan
    dataset = open_dataset(write(tmp_path / "data.h5", episodes)).checked(["action", "state"])
    ends = np.cumsum(dataset.ep_len) - 1
    assert (dataset.column("action")[ends] == 0).all()
    kept = np.setdiff1d(np.arange(dataset.num_steps), ends)
    np.testing.assert_array_equal(dataset.column("action")[kept], np.concatenate([e["action"] for e in episodes])[kept])


def test_training_refuses_nan_before_any_work(tmp_path, capsys):
    episodes = make_episodes(lengths=[60] * 12)
    episodes[4]["state"][7, 0] = np.nan
    path = write(tmp_path / "data.h5", episodes)
    command = ["train", "experiment=custom", "name=x", f"root={tmp_path}", f"dataset.path={path}", "tracking=none"]
    assert main(command) == 2
    assert "column 'state' is NaN or infinite in row 247, which is step 7 of episode 4" in capsys.readouterr().err
    assert not list(tmp_path.rglob("levels/*/*"))


TYPES = ["float64", "float16", "int32", "uint8", "bool", ">f4", "int64"]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(), (1,), (2,), (2, 2)], ids=str)
def test_numbers_of_any_type_are_read_as_float32(tmp_path, kind, shape):
    values = np.random.default_rng(0).integers(0, 2, (9, *shape)).astype(kind)
    episodes = [{"state": values, "action": np.zeros((9, 1), np.float32)}]
    dataset = open_dataset(write(tmp_path / "data.h5", episodes))
    column = dataset.column("state")
    image = kind in ("uint8", "bool") and len(shape) == 2
    assert column.dtype == (np.uint8 if image else np.float32)
    assert column.shape == (9, *(shape or (1,)))
    np.testing.assert_array_equal(column[:].reshape(values.shape), values)
    assert np.isfinite(dataset.statistics("state")).all()


@pytest.mark.parametrize("start", [0, 1, -3])
@pytest.mark.parametrize("shape", [(9,), (9, 1)], ids=str)
def test_actions_that_are_whole_numbers_become_one_hot(tmp_path, start, shape):
    drawn = np.array([0, 1, 2, 2, 1, 0, 0, 1, 2]) + start
    episodes = [{"state": np.zeros((9, 2), np.float32), "action": drawn.reshape(shape)}]
    column = open_dataset(write(tmp_path / "data.h5", episodes)).column("action")
    np.testing.assert_array_equal(column[:], np.eye(3)[drawn - start])
    assert column.dtype == np.float32


def test_whole_numbers_that_are_quantities_are_no_actions(tmp_path):
    episodes = [{"state": np.zeros((9, 2), np.float32), "action": 500 * np.arange(9)}]
    with pytest.raises(
        DatasetError, match=r"data\.h5: .* whole numbers from 0 to 4000; expected at most 1000 discrete actions"
    ):
        write(tmp_path / "data.h5", episodes)
    assert list(tmp_path.iterdir()) == []
