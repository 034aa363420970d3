import h5py
import numpy as np
import pytest

from hiwm.data.store import DatasetError, Writer, open_dataset

LENGTHS = (5, 1, 8, 3)


def make_episodes(seed=0, lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    return [
        {
            "state": rng.normal(size=(n, 3)).astype(np.float32),
            "action": rng.normal(size=(n, 2)).astype(np.float32),
            "pixels": rng.integers(0, 256, (n, 4, 5, 3), dtype=np.uint8),
            "step": np.arange(n, dtype=np.int64),
        }
        for n in lengths
    ]


def write(path, episodes, metadata=None):
    with Writer(path, {} if metadata is None else metadata) as writer:
        for episode in episodes:
            writer.append(episode)
    return path


def write_as_stable_worldmodel(path, episodes, compression=None):
    """Chunked, growing datasets, as stable-worldmodel's own writer makes them."""
    with h5py.File(path, "w", libver="latest") as file:
        for name, first in episodes[0].items():
            shape = first.shape[1:]
            file.create_dataset(
                name,
                (0, *shape),
                first.dtype,
                maxshape=(None, *shape),
                chunks=(1, *shape),
                compression=compression,
            )
        file.create_dataset("ep_len", (0,), np.int32, maxshape=(None,), chunks=(1,))
        file.create_dataset("ep_offset", (0,), np.int64, maxshape=(None,), chunks=(1,))
        file.swmr_mode = True
        total = 0
        for i, episode in enumerate(episodes):
            n = len(episode["state"])
            for name, rows in episode.items():
                file[name].resize(total + n, axis=0)
                file[name][total:] = rows
            for name, value in (("ep_len", n), ("ep_offset", total)):
                file[name].resize(i + 1, axis=0)
                file[name][i] = value
            total += n
    return path


def assert_holds(dataset, episodes):
    assert dataset.ep_len.tolist() == [len(e["state"]) for e in episodes]
    assert set(dataset.columns) == set(episodes[0])
    for i, episode in enumerate(episodes):
        rows = slice(dataset.ep_offset[i], dataset.ep_offset[i] + dataset.ep_len[i])
        for name, expected in episode.items():
            assert dataset.columns[name].dtype == expected.dtype
            np.testing.assert_array_equal(dataset.columns[name][rows], expected)


def test_round_trip(tmp_path):
    episodes = make_episodes()
    metadata = {"environment": {"id": "maze", "sizes": [1, 2]}, "seed": 3}
    dataset = open_dataset(write(tmp_path / "data.h5", episodes, metadata))
    assert_holds(dataset, episodes)
    assert dataset.num_steps == sum(LENGTHS)
    assert dataset.metadata["environment"] == metadata["environment"]
    assert dataset.metadata["seed"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["data.h5"]


def test_path_may_be_a_string(tmp_path):
    write(str(tmp_path / "data.h5"), make_episodes())
    assert open_dataset(str(tmp_path / "data.h5")).num_steps == sum(LENGTHS)


def test_columns_are_memory_maps_of_the_file(tmp_path):
    path = write(tmp_path / "data.h5", make_episodes())
    dataset = open_dataset(path)
    with h5py.File(path) as file:
        for name, column in dataset.columns.items():
            assert isinstance(column, np.memmap)
            assert column.offset == file[name].id.get_offset()
            assert column.filename == path
            assert not column.flags.writeable


def test_layout_is_that_of_stable_worldmodel(tmp_path):
    path = write(tmp_path / "data.h5", make_episodes())
    with h5py.File(path, "r", swmr=True) as file:
        assert file.swmr_mode
        assert set(file) == {"state", "action", "pixels", "step", "ep_len", "ep_offset"}
        assert all(isinstance(file[name], h5py.Dataset) for name in file)
        assert file["ep_len"][:].tolist() == list(LENGTHS)
        assert file["ep_offset"][:].tolist() == [0, 5, 6, 14]
        assert file["pixels"].shape == (17, 4, 5, 3)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_chunked_files_of_other_writers_open(tmp_path, compression):
    episodes = make_episodes()
    other = open_dataset(write_as_stable_worldmodel(tmp_path / "theirs.h5", episodes, compression))
    assert_holds(other, episodes)
    assert other.fingerprint == open_dataset(write(tmp_path / "ours.h5", episodes)).fingerprint


@pytest.mark.parametrize("layout", [write, write_as_stable_worldmodel])
@pytest.mark.parametrize("keep", [0, 7, 100, 0.3, 0.9, -1], ids=str)
def test_truncated_files_are_refused(tmp_path, layout, keep):
    path = layout(tmp_path / "cut.h5", make_episodes(lengths=(50, 60)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(DatasetError, match=r"cut\.h5"):
        open_dataset(path)


def test_a_file_that_is_not_hdf5_is_refused(tmp_path):
    path = tmp_path / "notes.h5"
    path.write_text("not a dataset " * 100)
    with pytest.raises(DatasetError, match=r"notes\.h5"):
        open_dataset(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere\.h5.*hiwm collect"):
        open_dataset(tmp_path / "nowhere.h5")


@pytest.mark.parametrize("gone", ["ep_len", "ep_offset"])
def test_a_file_without_episode_table_is_refused(tmp_path, gone):
    path = write(tmp_path / "flat.h5", make_episodes())
    with h5py.File(path, "r+", libver="latest") as file:
        del file[gone]
    with pytest.raises(DatasetError, match=rf"flat\.h5.*{gone}"):
        open_dataset(path)


def test_a_column_shorter_than_the_episode_table_is_refused(tmp_path):
    path = write(tmp_path / "short.h5", make_episodes())
    with h5py.File(path, "r+", libver="latest") as file:
        file["ep_len"][-1] += 1
    with pytest.raises(DatasetError, match=r"short\.h5.*17 rows.*18"):
        open_dataset(path)


@pytest.mark.parametrize("before", [True, False], ids=["over an older file", "new file"])
def test_a_crash_while_writing_leaves_nothing(tmp_path, before):
    path = tmp_path / "data.h5"
    older = make_episodes(seed=9)
    if before:
        write(path, older)
    with pytest.raises(KeyboardInterrupt), Writer(path, {}) as writer:  # noqa: PT012
        writer.append(make_episodes()[0])
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == (["data.h5"] if before else [])
    if before:
        assert_holds(open_dataset(path), older)


def test_a_crash_while_assembling_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="JSON"), Writer(tmp_path / "data.h5", {"environment": object()}) as writer:
        writer.append(make_episodes()[0])
    assert list(tmp_path.iterdir()) == []


def test_parts_of_a_killed_writer_are_dropped(tmp_path):
    (tmp_path / "data.parts").mkdir()
    (tmp_path / "data.parts" / "state").write_bytes(b"left behind")
    episodes = make_episodes()
    assert_holds(open_dataset(write(tmp_path / "data.h5", episodes)), episodes)
    assert not (tmp_path / "data.parts").exists()


def interrupted(path, episodes, metadata):
    """Append these episodes, then raise an error."""
    with pytest.raises(KeyboardInterrupt), Writer(path, metadata, resume=True) as writer:  # noqa: PT012
        for episode in episodes[len(writer.ep_len) :]:
            writer.append(episode)
        raise KeyboardInterrupt


def resumed(path, episodes, metadata):
    """Write the missing episodes; returns how many were there already."""
    with Writer(path, metadata, resume=True) as writer:
        there = len(writer.ep_len)
        for episode in episodes[there:]:
            writer.append(episode)
    return there


def spoil_line(data, number, line):
    """The index with another line in place of that of an episode; the first line is 0."""
    lines = data.split(b"\n")
    return b"\n".join([*lines[:number], line, *lines[number + 1 :]])


@pytest.mark.parametrize("there", [0, 1, 3, 4])
def test_an_interrupted_writer_continues(tmp_path, there):
    episodes, metadata = make_episodes(), {"seed": (3, 4)}
    whole = write(tmp_path / "whole.h5", episodes, metadata)
    path = tmp_path / "data.h5"
    interrupted(path, episodes[:there], metadata)
    assert not path.exists()
    interrupted(path, episodes[:there], metadata)
    assert resumed(path, episodes, metadata) == there
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.h5", "whole.h5"]


@pytest.mark.parametrize(
    ("file", "change", "left"),
    [
        ("state", lambda data: data + b"half an episode", 3),
        ("state", lambda data: data[:-1], 2),
        ("pixels", lambda data: data[: 6 * 60 - 1], 1),
        ("action", lambda data: b"", 0),
        ("ep_len", lambda data: data + b"3", 3),
        ("ep_len", lambda data: data[:-1], 2),
        ("ep_len", lambda data: data[:40], 0),
        ("ep_len", lambda data: b"", 0),
        ("ep_len", lambda data: spoil_line(data, 2, b"abc"), 1),
        ("ep_len", lambda data: spoil_line(data, 3, b"\0\0"), 2),
        ("ep_len", lambda data: spoil_line(data, 2, b"-3"), 1),
        ("ep_len", lambda data: spoil_line(data, 1, b"\r"), 0),
        ("ep_len", lambda data: spoil_line(data, 3, b"9" * 5000), 2),
    ],
)
def test_half_written_episodes_are_written_again(tmp_path, file, change, left):
    episodes, path = make_episodes(), tmp_path / "data.h5"
    interrupted(path, episodes[:3], {})
    part = tmp_path / "data.parts" / file
    part.write_bytes(change(part.read_bytes()))
    assert resumed(path, episodes, {}) == left
    assert_holds(open_dataset(path), episodes)


@pytest.mark.parametrize(("widths", "left"), [((0, 2), 3), ((0, 0), 0)])
def test_columns_of_zero_width_are_resumed(tmp_path, widths, left):
    episodes = [
        dict(zip(("state", "action"), (np.ones((n, w), np.float32) for w in widths), strict=True)) for n in LENGTHS
    ]
    path = tmp_path / "data.h5"
    interrupted(path, episodes[:3], {})
    assert resumed(path, episodes, {}) == left
    assert_holds(open_dataset(path), episodes)


def test_a_failed_assembly_keeps_the_episodes(tmp_path, monkeypatch):
    episodes, path = make_episodes(), tmp_path / "data.h5"
    with monkeypatch.context() as patch:
        patch.setattr("hiwm.data.store._store_statistics", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            resumed(path, episodes, {})
    assert [p.name for p in tmp_path.iterdir()] == ["data.parts"]
    assert resumed(path, episodes, {}) == len(episodes)
    assert_holds(open_dataset(path), episodes)


def test_episodes_of_another_config_are_not_continued(tmp_path):
    path = tmp_path / "data.h5"
    interrupted(path, make_episodes()[:2], {"seed": 3})
    with pytest.raises(
        DatasetError,
        match=r"data\.parts holds 2 episodes with the metadata {'seed': 3}.*{'seed': 4}.*remove the folder",
    ):
        resumed(path, make_episodes(), {"seed": 4})
    assert resumed(path, make_episodes(), {"seed": 3}) == 2


@pytest.mark.parametrize("resume", [True, False])
def test_two_writers_of_one_file_are_refused(tmp_path, resume):
    path = tmp_path / "data.h5"
    with Writer(path, {}, resume=True) as writer:
        writer.append(make_episodes()[0])
        with pytest.raises(DatasetError, match=r"data\.h5: another process writes this file"):
            Writer(path, {}, resume=resume).__enter__()
        writer.append(make_episodes()[1])
    assert_holds(open_dataset(path), make_episodes()[:2])


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.pop("action"),
        lambda e: e.update(extra=np.zeros(5)),
        lambda e: e.update(action=e["action"][:-1]),
        lambda e: e.update(action=e["action"].astype(np.float64)),
        lambda e: e.update(action=e["action"][:, :1]),
    ],
    ids=["column missing", "column added", "lengths differ", "type differs", "shape differs"],
)
def test_an_inconsistent_episode_is_refused(tmp_path, change):
    first, second = make_episodes(lengths=(5, 5))
    change(second)
    with pytest.raises(DatasetError, match=r"data\.h5.*an episode has"), Writer(tmp_path / "data.h5", {}) as writer:  # noqa: PT012
        writer.append(first)
        writer.append(second)
    assert list(tmp_path.iterdir()) == []


def test_plain_text_attributes_of_other_writers_are_read(tmp_path):
    path = write_as_stable_worldmodel(tmp_path / "theirs.h5", make_episodes())
    with h5py.File(path, "r+", libver="latest") as file:
        file.attrs["env_name"] = "swm/PushT-v1"
    assert open_dataset(path).num_steps == sum(LENGTHS)


def test_no_episodes_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"empty\.h5"):
        open_dataset(write(tmp_path / "empty.h5", []))
