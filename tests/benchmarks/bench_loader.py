"""Windows per second against the readers of stable-worldmodel on the same data, in one run."""

import importlib
import sys
import time
import types

import h5py
import numpy as np
import pytest
import torch

from hiwm.data.clips import ClipSampler
from hiwm.data.store import Writer, open_dataset

STEPS, BATCH, ROWS = 16, 64, 200
EPISODES = {64: 30, 224: 10}


@pytest.fixture
def swm(monkeypatch):
    """The package's readers, without the rest of it, which needs torchvision."""
    found = importlib.util.find_spec("stable_worldmodel")
    if found is None:
        pytest.skip("needs `pip install --no-deps stable-worldmodel==0.1.1 lancedb pylance`")
    package = types.ModuleType("stable_worldmodel")
    package.__path__ = found.submodule_search_locations
    monkeypatch.setitem(sys.modules, "stable_worldmodel", package)
    return importlib.import_module("stable_worldmodel.data")


def rate(function, seconds: float = 3.0) -> float:
    """Windows per second, after a warm-up call."""
    function()
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        function()
        batches += 1
    return batches * BATCH / (time.perf_counter() - began)


def frames(size: int, seed: int) -> np.ndarray:
    """A square that moves over a smooth background, which compresses like the images of a simulator."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    picture = np.stack([200 * x, 200 * y, 100 + 50 * np.sin(6 * x)], -1).astype(np.uint8)
    moved = np.repeat(picture[None], ROWS, 0)
    place = np.clip(np.cumsum(rng.normal(size=(ROWS, 2)), 0) * size / 40 + size / 2, 0, size * 0.8).astype(int)
    for t, (top, left) in enumerate(place):
        moved[t, top : top + size // 6, left : left + size // 6] = rng.integers(150, 255, 3)
    return moved


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", EPISODES)
def test_against_stable_worldmodel(tmp_path, swm, size):
    import hdf5plugin

    rng = np.random.default_rng(0)
    episodes = [
        {"pixels": frames(size, i), "action": rng.normal(size=(ROWS, 2)).astype(np.float32)}
        for i in range(EPISODES[size])
    ]
    with Writer(tmp_path / "ours.h5", {}) as ours, swm.HDF5Writer(tmp_path / "theirs.h5") as theirs:
        for episode in episodes:
            ours.append(episode)
            theirs.write_episode(episode)
    with h5py.File(tmp_path / "theirs.h5") as plain, h5py.File(tmp_path / "blosc.h5", "w") as packed:
        for name in plain:
            more = {"chunks": plain[name].chunks, **hdf5plugin.Blosc(cname="zstd")} if name == "pixels" else {}
            packed.create_dataset(name, data=plain[name][:], **more)
    with swm.LanceWriter(tmp_path / "table.lance") as table:
        table.write_episodes([{k: list(v) for k, v in e.items()} for e in episodes])

    def hiwm(name):
        sampler = ClipSampler(
            open_dataset(tmp_path / name), inputs=["pixels"], action="action", horizon=STEPS - 1, stride=1, action_period=1, reach=None
        )  # fmt: skip
        return rate(lambda: sampler.sample(BATCH, rng))

    def hdf5(name):
        dataset = swm.HDF5Dataset(path=tmp_path / name, num_steps=STEPS)
        collate = torch.utils.data.default_collate
        return rate(lambda: collate([dataset[int(i)] for i in rng.integers(len(dataset), size=BATCH)]))

    def lance(name):
        dataset = swm.LanceDataset(tmp_path / name, num_steps=STEPS)
        collate = torch.utils.data.default_collate
        return rate(lambda: collate(dataset.__getitems__(rng.integers(len(dataset), size=BATCH).tolist())))

    rates = {
        "stable-worldmodel, HDF5": hdf5("theirs.h5"),
        "stable-worldmodel, Lance (JPEG)": lance("table.lance"),
        "stable-worldmodel, HDF5 with Blosc": hdf5("blosc.h5"),
        "hiwm, its own file": hiwm("ours.h5"),
        "hiwm, the file of stable-worldmodel": hiwm("theirs.h5"),
        "hiwm, HDF5 with Blosc": hiwm("blosc.h5"),
    }
    print(f"\n{size}x{size}x3, {STEPS} steps, batch {BATCH}, one process, warm")
    for name, value in rates.items():
        print(f"  {name:<38}{value:10,.0f} windows/s")
    plain, packed = (rates[f"stable-worldmodel, HDF5{more}"] for more in ("", " with Blosc"))
    print(f"  uncompressed: x{rates['hiwm, its own file'] / plain:.1f} of HDF5, x{rates['hiwm, its own file'] / rates['stable-worldmodel, Lance (JPEG)']:.1f} of Lance; "
          f"compressed: x{rates['hiwm, HDF5 with Blosc'] / packed:.1f} of HDF5 on the same file")  # fmt: skip
