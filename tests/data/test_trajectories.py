import h5py
import numpy as np
import pytest
from test_store import LENGTHS, assert_holds, make_episodes, write

from hiwm.data.store import open_dataset
from hiwm.data.trajectories import STATISTICS_ROWS, DatasetError, Trajectories


def ramp(rows):
    return Trajectories("ramp", {"time": np.arange(rows)[:, None]}, np.array([rows]), np.array([0]))


def test_fingerprint_stands_for_the_content(tmp_path):
    prints = {}
    episodes = make_episodes()
    prints["same"] = open_dataset(write(tmp_path / "a.h5", episodes, {"made": "today"})).fingerprint
    assert open_dataset(write(tmp_path / "b.h5", episodes, {"made": "later"})).fingerprint == prints["same"]

    changed = make_episodes()
    changed[2]["pixels"][3, 1, 1, 1] ^= 1
    prints["value"] = open_dataset(write(tmp_path / "c.h5", changed)).fingerprint
    whole = {name: np.concatenate([e[name] for e in episodes]) for name in episodes[0]}
    prints["episodes"] = open_dataset(write(tmp_path / "d.h5", [whole])).fingerprint
    renamed = [{("other" if k == "state" else k): v for k, v in e.items()} for e in episodes]
    prints["name"] = open_dataset(write(tmp_path / "e.h5", renamed)).fingerprint
    assert len(set(prints.values())) == len(prints)
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints.values())


def test_statistics_are_stored_and_right(tmp_path):
    episodes = make_episodes()
    path = write(tmp_path / "data.h5", episodes)
    dataset = open_dataset(path)
    assert dataset.metadata["fingerprint"] == dataset.fingerprint
    with h5py.File(path) as file:
        for name in episodes[0]:
            data = np.concatenate([e[name] for e in episodes]).astype(np.float64)
            np.testing.assert_allclose(file[name].attrs["mean"], data.mean(0), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(file[name].attrs["std"], data.std(0), rtol=1e-5, atol=1e-6)
            mean, std = dataset.statistics(name)
            np.testing.assert_array_equal(mean, file[name].attrs["mean"])
            np.testing.assert_array_equal(std, file[name].attrs["std"])


@pytest.mark.parametrize("rows", [STATISTICS_ROWS, 10 * STATISTICS_ROWS])
def test_statistics_cover_the_whole_column(rows):
    mean, std = ramp(rows).statistics("time")
    assert mean[0] / rows == pytest.approx(0.5, abs=0.01)
    assert std[0] / rows == pytest.approx(12**-0.5, abs=0.01)


def test_statistics_cover_the_whole_column_at_any_length():
    rows = 2 * STATISTICS_ROWS - 1
    assert ramp(rows).statistics("time")[0][0] / rows == pytest.approx(0.5, abs=0.01)


def test_fingerprint_covers_the_whole_column_at_any_length():
    changed = ramp(8000)
    changed.columns["time"][5000:] += 1
    assert changed.fingerprint != ramp(8000).fingerprint


@pytest.mark.parametrize(("share", "held_out"), [(0.1, 1), (0.2, 2), (0.5, 5), (0.0, 1)])
def test_split_holds_out_the_last_share(tmp_path, share, held_out):
    episodes = make_episodes(lengths=range(2, 12))
    training, validation = open_dataset(write(tmp_path / "data.h5", episodes)).split(share)
    assert_holds(training, episodes[:-held_out])
    assert_holds(validation, episodes[-held_out:])
    assert training.num_steps + validation.num_steps == sum(range(2, 12))


@pytest.mark.parametrize(("lengths", "share"), [((5,), 0.1), ((5, 5), 1.0)])
def test_split_that_leaves_nothing_is_refused(tmp_path, lengths, share):
    dataset = open_dataset(write(tmp_path / "data.h5", make_episodes(lengths=lengths)))
    with pytest.raises(DatasetError, match=r"data\.h5.*cannot be split"):
        dataset.split(share)


def test_starts_are_rows_that_enough_rows_follow_in_their_episode(tmp_path):
    dataset = open_dataset(write(tmp_path / "data.h5", make_episodes()))
    assert LENGTHS == (5, 1, 8, 3)
    assert dataset.starts(1).tolist() == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 14, 15]
    assert dataset.starts(4).tolist() == [0, 6, 7, 8, 9]
    assert dataset.starts(8).tolist() == []
    training, validation = dataset.split(0.3)
    assert len(training.ep_len) == 3
    assert training.starts(4).tolist() == [0, 6, 7, 8, 9]
    assert validation.starts(2).tolist() == [14]


def test_an_unknown_column_lists_those_there_are(tmp_path):
    dataset = open_dataset(write(tmp_path / "data.h5", make_episodes()))
    with pytest.raises(DatasetError, match=r"data\.h5.*'position'.*'action', 'pixels', 'state', 'step'"):
        dataset.column("position")


def test_a_column_that_is_not_there_says_why(tmp_path):
    found = Trajectories(
        tmp_path / "d.h5", {"state": np.zeros((4, 1))}, np.array([4]), np.array([0]), unusable={"task": "holds text"}
    )
    for ask in (found.column, found.columns.__getitem__):
        with pytest.raises(DatasetError, match=r"d.h5: column 'task' holds text"):
            ask("task")
        with pytest.raises(DatasetError, match=r"there is no column 'x'; expected one of \['state'\]"):
            ask("x")
    assert found.columns.get("x") is None
