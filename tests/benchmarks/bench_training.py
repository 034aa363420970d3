"""Training speed as ratios: the loop against the bare encoder, cached latents against frames encoded anew."""

import time
from pathlib import Path

import numpy as np
import torch
from tiny import shipped

from hiwm.config import load_config
from hiwm.data.clips import ClipSampler
from hiwm.data.store import Writer, open_dataset
from hiwm.training.distributed import start_processes
from hiwm.training.latents import cache_latents
from hiwm.training.loop import train_level
from hiwm.training.specs import describe
from hiwm.training.stages import fit_level, spread_episodes

EPISODES, ROWS, STEPS = 40, 200, 40


def seconds(function, repeats=3):
    """Least of some runs, warm."""
    function()
    best = np.inf
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - began)
    return best


def frames(path: Path):
    rng = np.random.default_rng(0)
    with Writer(path, {}) as writer:
        for _ in range(EPISODES):
            pixels = rng.integers(0, 255, (ROWS, 64, 64, 3), dtype=np.uint8)
            action = rng.normal(size=(ROWS, 2)).astype(np.float32)
            writer.append({"pixels": pixels, "agent": action, "action": action})
    return open_dataset(path)


def sampler(data, level, inputs, period):
    reach = None if level.inverse is None else level.inverse.reach
    return ClipSampler(
        data,
        inputs=inputs,
        action="action",
        horizon=level.horizon,
        stride=level.stride,
        action_period=period,
        reach=reach,
    )


def test_training(tmp_path):
    dataset = frames(tmp_path / "frames.h5")
    config = load_config(["experiment=fourroom"])
    training = shipped("training", steps=STEPS, batch=64, evaluate_every=10**9, checkpoint_seconds=1e9)
    specs = describe(config.hierarchy, training, dataset, 0)
    pixels, above = specs[0].build(), specs[1].build()
    below = sampler(dataset, pixels, ["pixels"], 1)
    fit_level(pixels, dataset, below)
    episodes = spread_episodes(dataset, ["pixels"], np.asarray(dataset.column("agent")), torch.device("cpu"), 0)

    def loop():
        train_level(
            pixels, below, below, episodes, training, seed=0, processes=start_processes("cpu"), home=tmp_path,
            report=lambda _: None,
        )  # fmt: skip

    inputs = pixels.standardize(below.sample(64, np.random.default_rng(0)).inputs)

    def bare():
        for _ in range(STEPS):
            pixels.encoder(inputs).square().mean().backward()

    held_out = seconds(lambda: train_level(
        pixels, below, below, episodes, shipped("training", steps=1, batch=64, checkpoint_seconds=1e9), seed=0,
        processes=start_processes("cpu"), home=tmp_path, report=lambda _: None,
    ))  # fmt: skip
    whole, encoder = seconds(loop) - held_out, seconds(bare)
    print(f"\nlevel 0 from 64x64 pixels, batch 64 x {pixels.horizon + 1}: {64 * (pixels.horizon + 1) * STEPS / whole:,.0f} frames/s, "
          f"{encoder / whole:.0%} of what the encoder's forward and backward reach alone")  # fmt: skip

    pixels.eval()
    cache_latents(pixels, dataset, tmp_path / "latents.h5", ["pixels"], "action", 1)
    cached = sampler(open_dataset(tmp_path / "latents.h5"), above, ["latent"], pixels.stride)
    fit_level(above, open_dataset(tmp_path / "latents.h5"), cached)
    wide = ClipSampler(
        dataset, inputs=["pixels"], action="action", horizon=above.horizon, stride=pixels.stride * above.stride,
        action_period=1, reach=above.inverse.reach * pixels.stride,
    )  # fmt: skip
    rng = np.random.default_rng(0)

    def step(clip):
        above.total(above(clip, torch.Generator())).backward()

    def from_cache():
        step(cached.sample(256, rng))

    def from_frames():
        clip, seen = cached.sample(256, rng), wide.sample(256, rng)
        with torch.no_grad():  # what training on frames would have to encode: the window's and the pairs'
            pixels.encode(seen.inputs), pixels.encode(seen.pairs.source), pixels.encode(seen.pairs.target)
        step(clip)

    fast, slow = seconds(from_cache), seconds(from_frames)
    print(
        f"level 1, batch 256: {1000 * fast:.0f} ms a step on cached latents, {1000 * slow:.0f} ms with frames encoded anew: x{slow / fast:.1f}"
    )
