"""Datasets of other projects, converted by the command; files come from the real packages where they can be installed."""

import importlib
import json
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from test_store import assert_holds

from hiwm.cli import main
from hiwm.data.arrays import from_arrays
from hiwm.data.store import DatasetError, open_dataset

LENGTHS = (6, 3, 9)


def convert(source, tmp_path):
    """Run the command, and open what it wrote; opening the source itself must name the command."""
    target = tmp_path / "converted.h5"
    with pytest.raises(DatasetError, match=rf"Run `hiwm data convert {source} .*\.h5` first"):
        open_dataset(source)
    assert main(["data", "convert", str(source), str(target)]) == 0
    return open_dataset(target)


def episode(length, seed, image=True):
    rng = np.random.default_rng(seed)
    made = {
        "state": rng.normal(size=(length, 3)).astype(np.float32),
        "action": rng.normal(size=(length, 2)).astype(np.float32),
    }
    return made | ({"pixels": rng.integers(0, 256, (length, 8, 8, 3), np.uint8)} if image else {})


@pytest.mark.parametrize("kind", ["box", "dict", "discrete"])
@pytest.mark.filterwarnings("ignore")
def test_minari(tmp_path, monkeypatch, kind):
    minari = pytest.importorskip("minari")
    from gymnasium.spaces import Box, Dict, Discrete
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    seen, actions = (
        Box(-np.inf, np.inf, (3,), np.float64),
        Box(-1, 1, (2,)) if kind != "discrete" else Discrete(9, start=2),
    )
    if kind == "dict":
        seen = Dict({"arm": Dict({"angles": seen}), "desired_goal": seen})
    rng, taken, buffers = np.random.default_rng(0), [], []
    for number, length in enumerate(LENGTHS):
        here = np.arange(length)[:, None] * np.array([1.0, 10.0, 0.0])
        taken.append(rng.integers(2, 5, length - 1) if kind == "discrete" else rng.uniform(-1, 1, (length - 1, 2)))
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations={"arm": {"angles": here}, "desired_goal": -here} if kind == "dict" else here,
                actions=taken[-1],
                rewards=[1.0] * (length - 1),
                terminations=[False] * (length - 2) + [True],
                truncations=[False] * (length - 1),
                infos={},
            )
        )
    minari.create_dataset_from_buffers("walk/test-v0", buffers, observation_space=seen, action_space=actions)
    dataset = convert(tmp_path / "minari" / "walk" / "test-v0", tmp_path)
    assert dataset.ep_len.tolist() == list(LENGTHS)
    time = np.concatenate([np.arange(n) for n in LENGTHS])
    np.testing.assert_array_equal(dataset.column("arm.angles" if kind == "dict" else "state")[:][:, 1], 10 * time)
    if kind == "dict":
        np.testing.assert_array_equal(dataset.column("desired_goal")[:][:, 1], -10 * time)
    executed = np.setdiff1d(np.arange(sum(LENGTHS)), np.cumsum(LENGTHS) - 1)
    wanted = np.concatenate(taken)
    wanted = np.eye(9)[wanted - 2] if kind == "discrete" else wanted.astype(np.float32)
    np.testing.assert_array_equal(dataset.column("action")[executed], wanted)
    assert (dataset.column("reward")[executed] == 1).all()


@pytest.mark.parametrize("unfinished", [False, True])
def test_d4rl(tmp_path, unfinished):
    """The layout of https://github.com/Farama-Foundation/D4RL; the package needs an old MuJoCo and Gym."""
    episodes = [episode(n, seed, image=False) for seed, n in enumerate(LENGTHS)]
    flat = {name: np.concatenate([e[name] for e in episodes]) for name in episodes[0]}
    ends = np.cumsum(LENGTHS) - 1
    terminals, timeouts = np.zeros(sum(LENGTHS), bool), np.zeros(sum(LENGTHS), bool)
    terminals[ends[0]] = timeouts[ends[1]] = True
    timeouts[ends[2]] = not unfinished
    with h5py.File(tmp_path / "hopper.hdf5", "w") as file:
        for name, rows in (("observations", flat["state"].astype(np.float64)), ("actions", flat["action"]), ("terminals", terminals), ("timeouts", timeouts), ("rewards", flat["action"][:, 0])):  # fmt: skip
            file[name] = rows
        file["infos/qpos"] = flat["state"]
        file["metadata/policy"] = "text"
    dataset = convert(tmp_path / "hopper.hdf5", tmp_path)
    assert_holds(dataset, [e | {"reward": e["action"][:, 0]} for e in episodes])


def video(path, frames):
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"crf": "0", "preset": "ultrafast", "g": "4"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({name: list(column) for name, column in rows.items()}), path)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot(tmp_path, version):
    """The layout of https://huggingface.co/docs/lerobot; the package needs Python 3.12."""
    home, episodes = tmp_path / "pusht", []
    for seed, n in enumerate(LENGTHS):
        grey = np.broadcast_to((20 * np.arange(n) + 30 * seed)[:, None, None, None], (n, 16, 16, 3)).astype(np.uint8)
        episodes.append(episode(n, seed, image=False) | {"camera": grey})
    number = {"dtype": "float32", "names": None}
    features = {
        "observation.state": {**number, "shape": [3]}, "action": {**number, "shape": [2]}, "next.done": {"dtype": "bool", "shape": [1]},
        "observation.images.top": {"dtype": "video", "shape": [16, 16, 3]}, "task_index": {"dtype": "int64", "shape": [1]},
        "frame_index": {"dtype": "int64", "shape": [1]}, "episode_index": {"dtype": "int64", "shape": [1]},
    }  # fmt: skip
    third = version.startswith("v3")
    where = (
        "chunk-{chunk_index:03d}/file-{file_index:03d}"
        if third
        else "chunk-{episode_chunk:03d}/episode_{episode_index:06d}"
    )
    videos = (
        "videos/{video_key}/" + where
        if third
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}"
    )
    info = {
        "codebase_version": version, "fps": 10, "features": features, "total_episodes": len(episodes), "chunks_size": 1000,
        "data_path": f"data/{where}.parquet", "video_path": f"{videos}.mp4",
    }  # fmt: skip
    rows = [
        {"observation.state": e["state"].tolist(), "action": e["action"].tolist(), "next.done": [False] * len(e["state"]),
         "frame_index": range(len(e["state"])), "episode_index": [i] * len(e["state"]), "task_index": [0] * len(e["state"])}
        for i, e in enumerate(episodes)
    ]  # fmt: skip
    if third:
        place = {"chunk_index": 0, "file_index": 0}
        table(home / info["data_path"].format(**place), {k: [v for r in rows for v in r[k]] for k in rows[0]})
        video(
            home / info["video_path"].format(video_key="observation.images.top", **place),
            np.concatenate([e["camera"] for e in episodes]),
        )
        key = "videos/observation.images.top"
        starts = (np.cumsum(LENGTHS) - LENGTHS) / 10
        meta = {"episode_index": range(3), "data/chunk_index": [0] * 3, "data/file_index": [0] * 3, f"{key}/chunk_index": [0] * 3,
                f"{key}/file_index": [0] * 3, f"{key}/from_timestamp": starts.tolist(), "length": LENGTHS}  # fmt: skip
        table(home / "meta/episodes/chunk-000/file-000.parquet", meta)
    else:
        for i, (row, e) in enumerate(zip(rows, episodes, strict=True)):
            place = {"episode_chunk": 0, "episode_index": i}
            table(home / info["data_path"].format(**place), row)
            video(home / info["video_path"].format(video_key="observation.images.top", **place), e["camera"])
    (home / "meta").mkdir(exist_ok=True)
    (home / "meta" / "info.json").write_text(json.dumps(info))

    dataset = convert(home, tmp_path)
    assert set(dataset.columns) == {"observation.state", "action", "next.done", "observation.images.top"}
    assert dataset.ep_len.tolist() == list(LENGTHS)
    for i, e in enumerate(episodes):
        here = slice(int(dataset.ep_offset[i]), int(dataset.ep_offset[i]) + LENGTHS[i])
        np.testing.assert_array_equal(dataset.column("observation.state")[here], e["state"])
        np.testing.assert_array_equal(dataset.column("action")[here], e["action"])
        seen = dataset.column("observation.images.top")[here].astype(int)
        assert np.abs(seen - e["camera"]).max() <= 4  # colours are rounded by the video


@pytest.fixture
def stable_worldmodel(monkeypatch):
    """The package's readers and writers, without the rest of it, which needs torchvision."""
    found = importlib.util.find_spec("stable_worldmodel")
    if found is None:
        pytest.skip("stable-worldmodel is not installed")
    package = types.ModuleType("stable_worldmodel")
    package.__path__ = found.submodule_search_locations
    monkeypatch.setitem(sys.modules, "stable_worldmodel", package)
    return importlib.import_module("stable_worldmodel.data")


@pytest.mark.filterwarnings("ignore")
def test_stable_worldmodel_opens_as_it_is_and_opens_ours(tmp_path, stable_worldmodel):
    episodes = [episode(n, seed) for seed, n in enumerate(LENGTHS)]
    with stable_worldmodel.HDF5Writer(tmp_path / "theirs.h5") as writer:
        for e in episodes:
            writer.write_episode(e)
    assert_holds(open_dataset(tmp_path / "theirs.h5"), episodes)
    assert main(["data", "convert", str(tmp_path / "theirs.h5"), str(tmp_path / "ours.h5")]) == 0
    theirs = stable_worldmodel.HDF5Dataset(path=tmp_path / "ours.h5", num_steps=3)
    assert len(theirs) == sum(n - 2 for n in LENGTHS)
    np.testing.assert_array_equal(theirs[4]["state"], episodes[1]["state"])


def test_compressed_files_of_lewm_open_as_they_are(tmp_path):
    """LeWM's datasets are stable-worldmodel's layout with Blosc."""
    import hdf5plugin

    episodes = [episode(n, seed) for seed, n in enumerate(LENGTHS)]
    with h5py.File(tmp_path / "pusht.h5", "w") as file:
        for name in episodes[0]:
            rows = np.concatenate([e[name] for e in episodes])
            file.create_dataset(
                name, data=rows, chunks=(4, *rows.shape[1:]), **hdf5plugin.Blosc(cname="zstd", shuffle=2)
            )
        file["ep_len"], file["ep_offset"] = LENGTHS, np.cumsum(LENGTHS) - LENGTHS
    assert_holds(open_dataset(tmp_path / "pusht.h5"), episodes)


def test_arrays_in_memory(tmp_path):
    episodes = [episode(n, seed) for seed, n in enumerate(LENGTHS)]
    path = from_arrays(tmp_path / "mine.h5", episodes, {"source": "memory"})
    assert_holds(open_dataset(path), episodes)
    flat = {name: np.concatenate([e[name] for e in episodes]) for name in episodes[0]}
    other = from_arrays(tmp_path / "flat.h5", flat, lengths=LENGTHS)
    assert open_dataset(other).fingerprint == open_dataset(path).fingerprint
    nested = [{"observation": {"state": e["state"]}, "action": e["action"]} for e in episodes]
    assert set(open_dataset(from_arrays(tmp_path / "n.h5", nested)).columns) == {"observation.state", "action"}
    with pytest.raises(DatasetError, match=r"lengths add up to 17, but column 'state' has 18 rows"):
        from_arrays(tmp_path / "wrong.h5", flat, lengths=(6, 3, 8))


@pytest.mark.parametrize(
    "make", [lambda p: p.mkdir(), lambda p: p.write_text("a,b"), lambda p: h5py.File(p, "w").close()]
)
def test_an_unknown_format_is_refused(tmp_path, capsys, make):
    source: Path = tmp_path / "source"
    make(source)
    assert main(["data", "convert", str(source), str(tmp_path / "out.h5")]) == 2
    assert str(source) in capsys.readouterr().err
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize(
    ("target", "message"), [("there.h5", "is there already"), ("new.txt", "is not the name of an HDF5 file")]
)
def test_a_target_that_cannot_be_written_is_refused(tmp_path, capsys, target, message):
    (tmp_path / "there.h5").touch()
    assert main(["data", "convert", str(tmp_path / "source"), str(tmp_path / target)]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "there.h5").read_bytes() == b""


HOSTILE = {
    "data_path": "../../secret.parquet", "video_path": 3, "codebase_version": "v1.0", "total_episodes": "many", "features": [], "fps": None,
}  # fmt: skip


@pytest.mark.parametrize("key", HOSTILE)
def test_a_damaged_lerobot_dataset_is_refused(tmp_path, capsys, key):
    features = {"action": {"dtype": "float32", "shape": [1]}, "camera": {"dtype": "video", "shape": [16, 16, 3]}}
    info = {
        "codebase_version": "v2.0",
        "fps": 10,
        "features": features,
        "total_episodes": 1,
        "chunks_size": 1000,
        "data_path": "d.parquet",
        "video_path": "v.mp4",
    }
    (tmp_path / "set" / "meta").mkdir(parents=True)
    (tmp_path / "set" / "meta" / "info.json").write_text(json.dumps(info | {key: HOSTILE[key]}))
    table(tmp_path / "set" / "d.parquet", {"action": [[1.0]], "frame_index": [0], "episode_index": [0]})
    assert main(["data", "convert", str(tmp_path / "set"), str(tmp_path / "out.h5")]) == 2
    assert str(tmp_path / "set") in capsys.readouterr().err
    assert not (tmp_path / "out.h5").exists()


def test_a_d4rl_file_that_leads_to_another_file_is_refused(tmp_path, capsys):
    with h5py.File(tmp_path / "hopper.hdf5", "w") as file:
        file["observations"], file["actions"] = np.zeros((3, 2)), np.zeros((3, 1))
        file["terminals"] = h5py.ExternalLink("/etc/passwd", "/x")
    assert main(["data", "convert", str(tmp_path / "hopper.hdf5"), str(tmp_path / "out.h5")]) == 2
    assert "'terminals' is a link to another file" in capsys.readouterr().err
