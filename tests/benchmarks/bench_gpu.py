"""Speed, memory and exactness on a GPU, as a CSV table; `make gpu` runs it after the tests.

    python tests/benchmarks/bench_gpu.py analysis/results/gpu.csv [--device cuda] [--small]

`--device cpu --small` tries the script itself; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "benchmarks"), str(TESTS / "levels")]

import bench_solvers
import level_tools
import planning_tools
import test_level

from hiwm.config import load_config
from hiwm.hierarchy import LevelSpec
from hiwm.levels.clip import Clip, Pairs
from hiwm.levels.precision import compile_in_place
from hiwm.planning.goals import ObservationGoal
from hiwm.planning.noise import EpisodeNoise
from hiwm.training.loader import batches
from hiwm.training.loop import _State

HEADER = ("what", "case", "value", "unit", "device", "torch")
NO_GPU = "make gpu: torch finds no CUDA device here; expected a machine with an NVIDIA GPU and a CUDA build of torch"
Row = tuple[str, str, float, str]
ACTION = 2
# case -> overrides of level 0, shape of a frame, windows a step
TRAINED: dict[str, tuple[list[str], tuple[int, ...], int]] = {
    "conv, 64 x 64 pixels": (["level@levels.level0=pixels"], (64, 64, 3), 256),
    "vit, 224 x 224 pixels": (
        ["level@levels.level0=pixels", "encoder@levels.level0.encoder=vit", "levels.level0.encoder.patch=14"],
        (224, 224, 3), 32,
    ),
    "state of 4 numbers": ([], (4,), 4096),
}  # fmt: skip
COMPARED = ("level=state", "level=abstract", "level=pixels", "encoder=vit", "predictor=gru", "predictor=transformer")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Of one call, the mean of `repeats` in a row, warm."""
    function()
    wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        function()
    wait(device)
    return (time.perf_counter() - began) / repeats


def matmul_rate(device: torch.device, small: bool) -> float:
    """Operations per second of the best of float32 (TF32 on a GPU) and bfloat16 products of square matrices."""
    size, best = 256 if small else 8192, 0.0
    torch.set_float32_matmul_precision("high")
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(size, size, device=device, dtype=dtype)
        best = max(best, 2 * size**3 / seconds(lambda a=a: a @ a, device, 3 if small else 30))
    torch.set_float32_matmul_precision("highest")
    return best


def training(device: torch.device, small: bool, rate: float) -> Iterator[Row]:
    """Frames per second of the training loop from batches in memory, share of the matmul rate, and peak memory."""
    for case, (overrides, shape, windows) in TRAINED.items():
        if small:
            shape, windows = (28, 28, 3) if len(shape) == 3 else shape, 8
        for compiled in (False, True) if device.type == "cuda" else (False,):  # on a CPU, compiling takes a minute each
            level, clip = level_and_clip(overrides, shape, windows)
            level.to(device).fit_step(torch.randn(windows, level.horizon + 1, level.encoder.dim, device=device))
            steps = 4 if small else 50
            state = _State(level, load_config([]).training.changed({"steps": 10 * steps, "batch": windows}), device)

            def step(clip: Clip, state=state, level=level) -> None:
                state.step(level, clip, torch.Generator(device).manual_seed(0))

            def loop(clip=clip, step=step, steps=steps) -> None:
                for batch in batches(lambda _: clip, range(steps), device):
                    step(batch)

            on_device = clip.map(lambda x: x.to(device))
            with FlopCounterMode(display=False) as counter:
                step(on_device)
            name = case
            if compiled:
                compile_in_place(level)
                name += ", compiled"
                step(on_device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            spent = seconds(loop, device, 1) / steps
            yield "training", name, windows * (level.horizon + 1) / spent, "frames/s"
            yield "training", name, 100 * counter.get_total_flops() / spent / rate, "% of the matmul rate"
            if device.type == "cuda":
                yield "training", name, torch.cuda.max_memory_allocated(device) / 2**20, "MiB at most"


def level_and_clip(overrides: list[str], shape: tuple[int, ...], windows: int) -> tuple[Any, Clip]:
    """A level 0 over one input, and random windows of it."""
    name = "pixels" if len(shape) == 3 else "state"
    level = LevelSpec(load_config(overrides).levels["level0"], 1, {name: shape}, ACTION, "").build()
    generator = torch.Generator().manual_seed(0)

    def frames(*leading: int) -> dict[str, torch.Tensor]:
        if name == "state":
            return {name: torch.randn(*leading, *shape, generator=generator)}
        return {name: torch.randint(256, (*leading, *shape), generator=generator, dtype=torch.uint8)}

    steps = torch.randint(1, 5, (windows,), generator=generator)
    pairs = Pairs(frames(windows), torch.randn(windows, ACTION, generator=generator), frames(windows), steps)
    actions = torch.randn(windows, level.horizon, 1, ACTION, generator=generator)
    return level, Clip(frames(windows, level.horizon + 1), actions, None if level.inverse is None else pairs)


def planning(device: torch.device) -> Iterator[Row]:
    """Milliseconds of a search by our CEM and by that of stable-worldmodel, with the same predictor."""
    for batch in (1, 50):
        found = bench_solvers.searches(batch, str(device))
        for name, spent in bench_solvers.medians(found).items():
            yield "planning", f"{batch} environments, {name}", 1000 * spent, "ms/plan"


def agreement(device: torch.device) -> Iterator[Row]:
    """Largest relative difference of losses, and largest difference of actions, between the CPU and the device."""
    for case in COMPARED:
        overrides, k, inputs, stride = level_tools.CASES[case]
        losses = []
        for where in (torch.device("cpu"), device):
            level = level_tools.build(load_config(overrides).levels[f"level{k}"], inputs, stride).to(where)
            clip = test_level.make_clip(level, inputs, 64).map(lambda x, where=where: x.to(where))
            # draws of the CPU on both
            found = level(clip, torch.Generator().manual_seed(0))
            losses.append(torch.stack([*found.values()]).detach().cpu())
        yield "agreement", f"losses, {case}", ((losses[1] - losses[0]).abs() / losses[0].abs()).max().item(), "relative"
    actions = []
    for where in (torch.device("cpu"), device):
        bounds = tuple(bound.to(where) for bound in (planning_tools.LOW, planning_tools.HIGH))
        planner = planning_tools.flat_planner(planning_tools.exact_hierarchy().to(where), bounds=bounds)
        state, goal = ({"state": planning_tools.points(50, seed).to(where)} for seed in (0, 1))
        planner.start(
            ObservationGoal(planner.hierarchy.encode(goal)), EpisodeNoise(range(len(next(iter(goal.values())))))
        )
        actions.append(torch.stack([planner.plan(state).action for _ in range(6)]))
    yield "agreement", "actions of 50 environments", (actions[1] - actions[0]).abs().max().item(), "absolute"


def main(arguments: list[str]) -> int:
    """Write the table; 1 without the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, nargs="?", help="the table to write; without it, only look for the device")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 1
    if options.csv is None:
        return 0
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    rate = matmul_rate(device, options.small)
    rows = [("matmul", "best of float32 (TF32) and bfloat16", rate / 1e12, "TFLOP/s")]
    for part in (training(device, options.small, rate), planning(device), agreement(device)):
        rows += part
    with open(options.csv, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        for what, case, value, unit in rows:
            table.writerow([what, case, f"{value:.4g}", unit, name, torch.__version__])
            print(f"{what:<10} {case:<40} {value:12.4g} {unit}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
