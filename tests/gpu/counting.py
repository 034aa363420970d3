"""What a training step, a step of a head and a plan copy and wait for, on the simulated device.

    python tests/gpu/counting.py analysis/results/gpu_counts.csv

Each case is small; the counts do not depend on sizes.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / folder) for folder in ("", "gpu", "levels", "planning", "training")]

import level_tools
import test_joint
import test_level
import test_masked
import test_recorded_plans as recorded
from simulated_device import CUDA, Counts, simulated_device
from tiny import shipped

from hiwm.agent import Agent, load_agent
from hiwm.config import Config, load_config
from hiwm.data.store import open_dataset
from hiwm.evaluation.evaluate import make_agents
from hiwm.experiment import train
from hiwm.heads.action_prior import fit_action_prior
from hiwm.heads.optimize import FitData
from hiwm.heads.value import fit_value
from hiwm.training.loop import _State

REAL = "HIWM_GPU" in os.environ  # `make gpu`
ONCE = shipped("training", steps=10, batch=8)
# whose code another case runs too; a real GPU runs them as well
ALIKE = {
    *(name for name in recorded.CASES if name.startswith("pointmaze-")),
    "fourroom", "fourroom-deep", "sixteenroom", "cube-double", "cube-triple", "memory",
} - {"pointmaze-medium-navigate", "pointmaze-teleport-stitch"}  # fmt: skip
EXPERIMENTS = [name for name in recorded.CASES if REAL or name not in ALIKE]
TRAINABLES = [*level_tools.CASES, "pretraining=blocks", "pretraining=tubes", "training.joint=true", "accumulate=2"]


def make(name: str) -> tuple[Any, Any]:
    """A module of the config group's choice and a clip of 8 rows for it, on the CPU."""
    if name.startswith("pretraining="):
        _, module = test_masked.make(name.removeprefix("pretraining="))
        return module, test_masked.squares(8, module.frames)
    if name == "training.joint=true":
        return test_joint.make_levels(), test_joint.make_clip(8)
    overrides, k, inputs, stride = level_tools.CASES["level=abstract" if name == "accumulate=2" else name]
    level = level_tools.build(load_config(overrides).levels[f"level{k}"], inputs, stride)
    return level, test_level.make_clip(level, inputs, 8)


@contextmanager
def forbidden_waits() -> Iterator[None]:
    """A real GPU raises where the CPU waits for it; the simulated one counts."""
    if REAL:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype", UserWarning)
            torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if REAL:
            torch.cuda.set_sync_debug_mode("default")


def training_step(name: str, counts: Counts) -> Counts:
    """Counts of the second optimiser step, without the upload of its batch."""
    module, clip = make(name)
    config = ONCE.changed({"accumulate": 2}) if name == "accumulate=2" else ONCE
    state = _State(module.to(CUDA), config, CUDA)
    clip = clip.map(lambda x: x.to(CUDA))
    for seed in range(2):
        generator = torch.Generator(CUDA).manual_seed(seed)
        counts.reset()
        with forbidden_waits() if seed else nullcontext():
            losses, _ = state.step(module, clip, generator)
    found = counts.copy()
    assert all(value.isfinite() for value in losses.values())
    return found


def head_step(name: str, cache: Path, counts: Counts) -> Counts:
    """Counts of a step of a head, from those of 5 steps and of 15."""
    found = []
    for steps in (5, 15):
        counts.reset()
        data = FitData(open_dataset(cache), validation=0.2, seed=0, device=CUDA)
        if name == "value":
            part = np.array(data.latents.column("latent"))[:, :2]
            fit_value(data, part, 1, shipped("value", levels=[0], steps=steps, batch=16, width=8))
        else:
            fit_action_prior(data, 1, shipped("action_prior", levels=[0], steps=steps, batch=16, width=8))
        found.append(counts.copy())
    less, many = found
    return Counts(*((getattr(many, key) - getattr(less, key)) // 10 for key in ("uploads", "downloads", "waits")))


def trained(name: str, root: Path) -> tuple[Config, dict[str, Agent]]:
    """The config and the agents of a tiny version of a recorded case, trained on the device."""
    config = load_config(
        [*recorded.CASES[name], *recorded.SMALL, f"root={root}", f"dataset.path={root}/data.h5", "device=cuda"]
    )
    shapes, dim_action = recorded.columns(config)
    recorded.write_dataset(Path(config.dataset.path), shapes, dim_action, discrete=name == "discrete")
    train(config)
    return config, make_agents(load_agent(config.folder / "hierarchy", "cuda", config.allow), config.evaluation)


def plans(name: str, root: Path, counts: Counts) -> Iterator[tuple[str, int, list[Counts]]]:
    """For every agent of a case: its number of inputs, and counts of each of its plans; the first agent makes 12, the others 3."""
    config, agents = trained(name, root)
    shapes, _ = recorded.columns(config)
    seen, goals = recorded.observations(shapes, recorded.STEPS, 1), recorded.observations(shapes, 2, 2)
    for i, (key, agent) in enumerate(agents.items()):
        agent.reset(recorded.goal(name, key, agent, config, goals))
        rows, found = np.arange(recorded.BATCH), []
        for step in range(3 if i else recorded.STEPS):
            if step == recorded.SELECT_AT:
                agent.select(recorded.SELECTED)
                rows = recorded.SELECTED
            counts.reset()
            action = agent.act({column: seen[column][step][rows] for column in config.inputs})
            found.append(counts.copy())
            assert np.isfinite(action).all()
        assert agent.plan.explain()
        yield key, len(config.inputs), found


def table() -> Iterator[list[Any]]:
    """Rows of the table, the header first."""
    yield ["what", "case", "uploads", "downloads", "waits"]
    with simulated_device() as counts, tempfile.TemporaryDirectory() as folder:
        for name in TRAINABLES:
            found = training_step(name, counts)
            yield ["training step", name, found.uploads, found.downloads, found.waits]
        for name in EXPERIMENTS:
            root = Path(folder) / name
            for key, _, every in plans(name, root, counts):
                worst = max(every, key=lambda one: one.waits)
                yield ["plan", f"{name}, {key}", worst.uploads, worst.downloads, worst.waits]
        cache = next(Path(folder).rglob("latents.h5"))
        for name in ("value", "action prior"):
            found = head_step(name, cache, counts)
            yield ["head step", name, found.uploads, found.downloads, found.waits]


if __name__ == "__main__":
    with open(sys.argv[1], "w", newline="") as file:
        for row in table():
            csv.writer(file).writerow(row)
            print(*row, sep="\t", flush=True)
