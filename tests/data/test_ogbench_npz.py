import numpy as np
import pytest

from hiwm.data.store import DatasetError, open_dataset


def make(lengths, seed=0, pixels=False):
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    terminals = np.zeros(total, np.float32)
    terminals[np.cumsum(lengths) - 1] = 1
    return {
        "observations": rng.integers(0, 256, (total, 4, 4, 3), dtype=np.uint8)
        if pixels
        else rng.normal(size=(total, 2)),
        "actions": rng.normal(size=(total, 3)),
        "terminals": terminals,
    }


def save(path, data):
    np.savez(path, **data)
    return path


def test_episodes_come_from_terminals(tmp_path):
    data = make([4, 1, 6])
    dataset = open_dataset(save(tmp_path / "maze-v0.npz", data))
    assert dataset.ep_len.tolist() == [4, 1, 6]
    assert dataset.ep_offset.tolist() == [0, 4, 5]
    assert set(dataset.columns) == {"state", "action"}
    np.testing.assert_array_equal(dataset.column("state"), data["observations"].astype(np.float32))
    np.testing.assert_array_equal(dataset.column("action"), data["actions"].astype(np.float32))
    assert {c.dtype for c in dataset.columns.values()} == {np.dtype(np.float32)}
    assert dataset.metadata == {"source": "maze-v0.npz"}


def test_validation_file_is_appended(tmp_path):
    train, val = make([4, 3], seed=0), make([5, 2], seed=1)
    path = save(tmp_path / "maze-v0.npz", train)
    save(tmp_path / "maze-v0-val.npz", val)
    save(tmp_path / "other-v0-val.npz", make([9], seed=2))
    dataset = open_dataset(path)
    assert dataset.ep_len.tolist() == [4, 3, 5, 2]
    assert dataset.ep_offset.tolist() == [0, 4, 7, 12]
    expected = np.concatenate([train["observations"], val["observations"]]).astype(np.float32)
    np.testing.assert_array_equal(dataset.column("state"), expected)
    training, validation = dataset.split(0.5)
    assert training.ep_len.tolist() == [4, 3]
    assert validation.ep_len.tolist() == [5, 2]
    assert dataset.fingerprint != open_dataset(tmp_path / "maze-v0-val.npz").fingerprint


def test_images_become_pixels(tmp_path):
    data = make([3, 2], pixels=True)
    dataset = open_dataset(save(tmp_path / "visual.npz", data))
    assert set(dataset.columns) == {"pixels", "action"}
    assert dataset.column("pixels").dtype == np.uint8
    np.testing.assert_array_equal(dataset.column("pixels"), data["observations"])


@pytest.mark.parametrize("missing", ["observations", "actions", "terminals"])
def test_a_missing_array_is_refused(tmp_path, missing):
    data = make([3, 2])
    del data[missing]
    with pytest.raises(DatasetError, match=rf"maze\.npz.*{missing}"):
        open_dataset(save(tmp_path / "maze.npz", data))


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(0),
        10,
        0.5,
        -1,
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # numpy leaves a broken zip file open
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = save(tmp_path / "maze.npz", make([30, 20]))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(DatasetError, match=r"maze\.npz"):
        open_dataset(path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_bad_validation_file_is_named(tmp_path):
    path = save(tmp_path / "maze.npz", make([3, 2]))
    (tmp_path / "maze-val.npz").write_text("nothing")
    with pytest.raises(DatasetError, match=r"maze-val\.npz"):
        open_dataset(path)


def test_a_file_without_an_end_of_episode_is_refused(tmp_path):
    data = make([5])
    data["terminals"][:] = 0
    with pytest.raises(DatasetError, match=r"maze\.npz"):
        open_dataset(save(tmp_path / "maze.npz", data))


def test_arrays_of_different_lengths_are_refused(tmp_path):
    data = make([5, 4])
    data["actions"] = data["actions"][:-1]
    with pytest.raises(DatasetError, match=r"maze\.npz"):
        open_dataset(save(tmp_path / "maze.npz", data))


def test_an_unfinished_last_episode_does_not_join_the_validation_file(tmp_path):
    train = make([4, 3])
    train["terminals"][-1] = 0
    path = save(tmp_path / "maze.npz", train)
    save(tmp_path / "maze-val.npz", make([5]))
    dataset = open_dataset(path)
    assert dataset.ep_len.tolist() in ([4, 5], [4, 3, 5])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("observations", np.array(["a"] * 9), "observations is <U1"),
        ("actions", np.array([None] * 9), "not an OGBench dataset"),
        ("terminals", np.ones((9, 2)), "terminals has the shape"),
        ("actions", np.float32(3), "one row per step"),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, name, values, message):
    with pytest.raises(DatasetError, match=rf"maze\.npz.*{message}"):
        open_dataset(save(tmp_path / "maze.npz", make([5, 4]) | {name: values}))


def test_a_validation_file_of_another_shape_is_refused(tmp_path):
    path = save(tmp_path / "maze.npz", make([5, 4]))
    save(tmp_path / "maze-val.npz", make([5]) | {"observations": np.zeros((5, 7))})
    with pytest.raises(DatasetError, match=r"maze-val\.npz: observations has another shape or type"):
        open_dataset(path)


def test_discrete_actions_become_one_hot(tmp_path):
    dataset = open_dataset(save(tmp_path / "maze.npz", make([2, 1]) | {"actions": np.array([1, 3, 2])}))
    np.testing.assert_array_equal(dataset.column("action")[:], np.eye(3)[[0, 2, 1]])
