"""Kills whole experiments at random moments, runs the same command again, and compares the files with those of a run
that nothing interrupted: `python tests/benchmarks/kill_and_resume.py --kills 30 --terms 10 --pairs 6`.

Everything must be bit-equal but times of planning; no temporary file, lock or process may stay behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
import tiny

MORE = ["tracking=none", "training.checkpoint_seconds=0.3", "training.steps=150"]
TIMES = ("plan_ms", "machine", "commit", "sha256")  # of an evaluation, which differ from run to run
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}


def command(root: Path, processes: int, dataset: Path | None = None) -> list[str]:
    """The whole experiment in one process, or its training in several."""
    more = [*MORE, *([f"dataset.path={dataset}"] if dataset else [])]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    verb = "run" if processes == 1 else "train"
    return [sys.executable, *(launch if processes > 1 else []), "-m", "hiwm", verb, *tiny.overrides(root, *more)]


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with open(log, "ab") as file:
        return subprocess.Popen(arguments, env=ENVIRONMENT, cwd=TESTS.parent, stdout=file, stderr=file)


def collected(root: Path) -> Path:
    """The dataset of a root of results."""
    collect = [sys.executable, "-m", "hiwm", "collect", *tiny.overrides(root, *MORE)]
    assert start(collect, root.with_name("log")).wait() == 0
    return next(iter(root.rglob("datasets/*.h5")))


def contents(root: Path) -> dict[str, object]:
    """What must be the same: relative path -> bytes, arrays or numbers."""
    found: dict[str, object] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = str(path.relative_to(root))
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays}
        elif path.suffix == ".safetensors":  # the order of its metadata is random
            size = 8 + int.from_bytes(path.read_bytes()[:8], "little")
            found[name] = json.loads(path.read_bytes()[8:size]), path.read_bytes()[size:]
        elif path.name == "evaluation.json":
            found[name] = _without_times(json.loads(path.read_text()))
        elif path.suffix in (".html", ".png") or path.name == "config.yaml":
            found[name] = "there"  # holds times, or the name of the root
        else:
            found[name] = path.read_bytes()
    return found


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in TIMES}
    return value


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that these have."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [each for child in map(int, found) for each in (child, *descendants(child))]


class Trial:
    """Interrupts one kind of command until enough signals were sent."""

    def __init__(self, folder: Path, number: int, processes: int, dataset: Path | None) -> None:
        self.folder, self.number, self.processes, self.dataset = folder, number, processes, dataset
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0

    def run(self, signals: int, expected: dict[str, object], seconds: float, chance: random.Random) -> None:
        """`seconds` is what an uninterrupted run takes; a run that has finished is compared and begun anew."""
        sent, rounds = 0, 0
        while sent < signals:
            root = self.folder / f"{self.number}-{self.processes}-{rounds}"
            rounds += 1
            while sent < signals and self._interrupted(root, chance.uniform(0.05, 1.0) * seconds):
                sent += 1
            self._finish(root)
            self._compare(root, expected)

    def _interrupted(self, root: Path, after: float) -> bool:
        """Send the signal after some seconds; False if the command had ended before."""
        running = start(command(root, self.processes, self.dataset), self.folder / "log")
        try:
            running.wait(after)
            return False
        except subprocess.TimeoutExpired:
            pass
        children = descendants(running.pid)
        before = time.monotonic()
        os.kill(running.pid, self.number)
        running.wait(600)
        while any(Path(f"/proc/{child}").exists() for child in children):
            if time.monotonic() - before > 60:
                self.counts["processes that stayed"] += 1
                break
            time.sleep(0.05)
        self.slowest = max(self.slowest, time.monotonic() - before)
        self.counts[f"exit {running.returncode}"] += 1
        return True

    def _finish(self, root: Path) -> None:
        done = start(command(root, self.processes, self.dataset), self.folder / "log")
        if done.wait(600):
            self.counts["failures"] += 1

    def _compare(self, root: Path, expected: dict[str, object]) -> None:
        found = contents(root)
        self.counts["compared"] += 1
        for name in sorted(set(found) ^ set(expected)):
            self.counts["more files" if name in found else "missing files"] += 1
            print("  only", "after the interruptions:" if name in found else "without:", name, flush=True)
        for name in sorted(set(found) & set(expected)):
            if found[name] != expected[name]:
                self.counts["different files"] += 1
                print("  differs:", name, flush=True)


def main() -> None:
    """Run all trials; exit with 1 if anything differs."""
    parser = argparse.ArgumentParser()
    for name in ("kills", "terms", "pairs"):  # one process: SIGKILL, SIGTERM; two: SIGKILL of the launcher
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    print(folder, flush=True)
    chance = random.Random(given.seed)
    bad = False
    for number, processes, signals in (
        (signal.SIGKILL, 1, given.kills),
        (signal.SIGTERM, 1, given.terms),
        (signal.SIGKILL, 2, given.pairs),
    ):
        if not signals:
            continue
        whole = folder / f"whole{processes}"
        dataset = collected(folder / "whole1") if processes > 1 else None
        before = time.monotonic()
        if not whole.exists():
            status = start(command(whole, processes, dataset), folder / "log").wait()
            assert status == 0, (folder / "log").read_text()[-2000:]
            seconds = time.monotonic() - before
        trial = Trial(folder, number, processes, dataset)
        trial.run(signals, contents(whole), seconds, chance)
        print(f"{signal.Signals(number).name}, {processes} processes: {signals} signals in runs of {seconds:.0f} s; "
              f"{dict(trial.counts)}; gone at the latest after {trial.slowest:.1f} s", flush=True)  # fmt: skip
        bad |= any(key in trial.counts for key in ("failures", "more files", "missing files", "different files"))
        bad |= "processes that stayed" in trial.counts
    sys.exit(bad)


if __name__ == "__main__":
    main()
