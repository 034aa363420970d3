"""Windows per second: memory map against HDF5 reads of the same data, in one run."""

import time

import h5py
import numpy as np

from hiwm.data.clips import ClipSampler
from hiwm.data.store import Writer, open_dataset

WINDOW, BATCH, EPISODES, ROWS = 16, 64, 40, 200


def rate(function, seconds: float = 3.0) -> float:
    """Windows per second, after a warm-up call."""
    function()
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        function()
        batches += 1
    return batches * BATCH / (time.perf_counter() - began)


def test_windows_per_second(tmp_path):
    rng = np.random.default_rng(0)
    path, chunked = tmp_path / "pixels.h5", tmp_path / "chunked.h5"
    with Writer(path, {}) as writer:
        for _ in range(EPISODES):
            frames = rng.integers(0, 255, (ROWS, 64, 64, 3), dtype=np.uint8)
            writer.append({"pixels": frames, "action": rng.normal(size=(ROWS, 2)).astype(np.float32)})
    dataset = open_dataset(path)
    with h5py.File(chunked, "w", libver="latest") as file:  # one chunk per frame, as stable-worldmodel writes them
        for name, column in dataset.columns.items():
            file.create_dataset(name, data=column, chunks=(1, *column.shape[1:]))
    sampler = ClipSampler(
        dataset, inputs=["pixels"], action="action", horizon=WINDOW - 1, stride=1, action_period=1, reach=1
    )

    def ours():
        sampler.sample(BATCH, rng)

    def reader(file):
        def read():
            for start in rng.integers(0, EPISODES * ROWS - WINDOW, BATCH):
                file["pixels"][start : start + WINDOW], file["action"][start : start + WINDOW]

        return read

    with h5py.File(path, swmr=True) as contiguous, h5py.File(chunked, swmr=True, rdcc_nbytes=256 << 20) as by_frame:
        rates = {
            "memory map (ClipSampler, with pairs)": rate(ours),
            "h5py, contiguous": rate(reader(contiguous)),
            "h5py, one chunk per frame": rate(reader(by_frame)),
        }
    print(f"\n64x64x3, {WINDOW} steps, one process, warm")
    for name, value in rates.items():
        print(f"  {name:<38}{value:10,.0f} windows/s  x{value / rates['h5py, one chunk per frame']:.1f}")
