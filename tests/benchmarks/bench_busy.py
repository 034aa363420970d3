"""Training speed while other jobs spin on every core, as a share of the speed alone; with idle threads asleep or spinning."""

import json
import os
import re
import subprocess
import sys
import time

import tiny

STEPS = 100_000


def rate(root, policy: str | None, dataset) -> float:
    """Optimiser steps per second of level 1 of the shipped point maze, from its history."""
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    environment |= {} if policy is None else {"OMP_WAIT_POLICY": policy}
    environment["PYTHONPATH"] = os.pathsep.join([str(tiny.TESTS), str(tiny.ROOT)])
    command = [sys.executable, "-m", "hiwm", "train", "experiment=pointmaze", f"root={root}", f"dataset.path={dataset}",
               "~levels.level2", "~levels.level1", "tracking=none", f"training.steps={STEPS}", "planner.graph=none"]  # fmt: skip
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = None
    for line in process.stdout:
        found = re.search(r"level 0: ([\d,]+)/", line)
        if found is None:
            continue
        step, now = int(found[1].replace(",", "")), time.perf_counter()
        first = first or (step, now)
        if now - first[1] > 20 or step >= STEPS:
            break
    process.kill()
    process.wait()
    assert first is not None
    return (step - first[0]) / (now - first[1])


def test_busy_cores(tmp_path):
    dataset = tmp_path / "maze.h5"
    subprocess.run(
        [sys.executable, "-m", "hiwm", "collect", "experiment=pointmaze", "dataset.episodes=40", f"dataset.path={dataset}",
         f"root={tmp_path}"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    cases = {"default": None, "spinning threads": "ACTIVE"}
    found = {name: {"alone": rate(tmp_path / f"{name}-alone", policy, dataset)} for name, policy in cases.items()}
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        for name, policy in cases.items():
            found[name]["busy"] = rate(tmp_path / f"{name}-busy", policy, dataset)
    finally:
        for loop in loops:
            loop.kill()
    shares = {name: rates["busy"] / rates["alone"] for name, rates in found.items()}
    print(json.dumps({"steps per second": found, "share": shares, "cores": os.cpu_count()}, indent=1))
