"""Training speed with OpenMP's threads asleep or spinning while they wait, alone and while other jobs spin on every core.

This table chose the defaults: threads sleep while they wait (`hiwm/__init__.py`), and networks over numbers have one thread (`start` in
`hiwm/experiment/session.py`).
"""

import json
import os
import subprocess
import sys
import time

import pytest
import tiny

SECONDS = 1.5  # for each of the networks
ROUNDS = 3  # of all cases, one after another, because other guests of a machine come and go; the best one counts
DECIDES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")
CASES = {
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"{count} spins": {"GOMP_SPINCOUNT": str(count)} for count in (5000, 20_000, 50_000)},
    "one thread": {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
}


def measure() -> dict[str, float]:
    """Optimiser steps, or predictions of a plan, per second, in this process."""
    import hiwm  # noqa: F401, I001  before torch, as in every command
    import torch

    from hiwm.config import load_config
    from hiwm.hierarchy import LevelSpec
    from hiwm.levels.clip import Clip, Pairs

    def trained(overrides: list[str], k: int, shape: tuple[int, ...], name: str, batch: int) -> tuple:
        config = load_config(overrides)
        level = LevelSpec(config.hierarchy.levels[k], 1 if k == 0 else 10, {name: shape}, 2, "").build().train()

        def draw(*leading: int) -> dict[str, torch.Tensor]:
            return {name: torch.rand(*leading, *shape)}

        pairs = level.inverse and Pairs(draw(batch), torch.randn(batch, 2), draw(batch), torch.randint(1, 9, (batch,)))
        clip = Clip(draw(batch, level.horizon + 1), torch.randn(batch, level.horizon, level.stride, 2), pairs or None)
        optimizer, generator = torch.optim.AdamW(level.parameters()), torch.Generator()

        def step() -> None:
            optimizer.zero_grad()
            level.total(level(clip, generator)).backward()
            optimizer.step()

        return level, step

    maze, level0 = trained(["experiment=pointmaze"], 0, (2,), "state", 256)
    latent, actions = torch.randn(100, maze.encoder.dim), torch.randn(100, 5, maze.action_encoder.dim)

    def plan() -> None:
        with torch.no_grad():
            maze.rollout(latent, actions)

    work = {
        "point maze, level 0": level0,
        "level 1": trained(["experiment=pointmaze"], 1, (2,), "latent", 256)[1],
        "batch 32": trained(["experiment=pointmaze"], 1, (2,), "latent", 32)[1],
        "FourRoom, level 0": trained(["experiment=fourroom"], 0, (64, 64, 3), "pixels", 64)[1],
        "plans": plan,
    }
    found = {}
    for name, step in work.items():
        step(), step()
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS:
            step()
            steps += 1
        found[name] = steps / (time.perf_counter() - began)
    return found


def rates() -> dict[str, dict[str, float]]:
    """The best `measure` of every case, each in processes with its environment."""
    found: dict[str, dict[str, float]] = {case: {} for case in CASES}
    for _ in range(ROUNDS):
        for case, environment in CASES.items():
            given = {key: value for key, value in os.environ.items() if key not in DECIDES} | environment
            given["PYTHONPATH"] = os.pathsep.join([str(tiny.TESTS), str(tiny.ROOT)])
            done = subprocess.run([sys.executable, __file__], env=given, stdout=subprocess.PIPE, text=True, check=True)
            for name, rate in json.loads(done.stdout.splitlines()[-1]).items():
                found[case][name] = max(rate, found[case].get(name, 0.0))
    return found


@pytest.fixture
def loops():
    """Starts a spinning process for each core; they end with the test."""
    started = []
    yield lambda: started.extend(
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)
    )
    for loop in started:
        loop.kill()
        loop.wait()


def test_busy_cores(loops):
    alone = rates()
    loops()
    busy = rates()
    names = list(alone["asleep"])
    best = {name: max(found[name] for found in alone.values()) for name in names}
    print(
        f"\n{os.cpu_count()} cores. Steps per second alone (share of the best case) -> with a loop on every core (share of the rate alone)"
    )
    print(" " * 12 + "".join(f"{name:>30}" for name in names))
    for case in CASES:
        a, b = alone[case], busy[case]
        cells = [
            f"{a[name]:.1f} ({a[name] / best[name]:.2f}) -> {b[name]:.1f} ({b[name] / a[name]:.2f})" for name in names
        ]
        print(f"{case:<12}" + "".join(f"{cell:>30}" for cell in cells))


if __name__ == "__main__":
    print(json.dumps(measure()))
