"""Several processes: they wait for one another without a limit, stop together, and end with what started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest import mock

import pytest
import tiny
import torch
import two_processes

from hiwm.config import load_config
from hiwm.training.distributed import Processes, Vote, barrier


def waits_long(rank, folder):
    if rank == 0:  # caches latents and fits heads alone
        time.sleep(8)
    barrier()


def test_waiting_for_the_main_process_outlasts_the_timeout_of_the_group(tmp_path):
    two_processes.run(waits_long, tmp_path, seconds=4)


def votes(rank, folder):
    clock = iter([0, 1, 11, 11, 11, 12, 22, 22, 22])
    with mock.patch("hiwm.training.distributed.time", SimpleNamespace(monotonic=lambda: next(clock))):
        vote = Vote(Processes(rank, 2, torch.device("cpu")), 10 if rank == 0 else 0)
        answers = [vote(signal.SIGUSR1 if rank == 1 and step >= 3 else 0) for step in range(6)]
    signals, saves = zip(*answers, strict=True)
    assert signals == (0, 0, 0, 0, signal.SIGUSR1, signal.SIGUSR1), signals
    assert saves == (False, False, True, False, False, True), saves
    assert vote.result() == (signal.SIGUSR1, False)
    assert vote.result() == (0, False)


def test_all_processes_hear_of_a_signal_and_of_a_save_at_the_same_step(tmp_path):
    two_processes.run(votes, tmp_path)


def test_one_process_hears_of_a_signal_at_once():
    vote = Vote(Processes(0, 1, torch.device("cpu")), 1000)
    assert [vote(0), vote(15)] == [(0, False), (15, False)]


@pytest.fixture
def training(tiny_run, tmp_path):
    """A training of two processes that would last for hours, and saves nothing unless it is stopped."""
    more = [f"dataset.path={tiny_run.config.dataset.path}", "tracking=none", "training.evaluate_every=100000"]
    more += ["training.steps=100000", "training.checkpoint_seconds=100000", "training.warmup=0.5"]
    overrides = tiny.overrides(tmp_path, *more)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hiwm"]
    return load_config(overrides).folder, [*launch, "train", *overrides]


def step_of(folder):
    """Step of the only checkpoint; 0 without one."""
    found = list(folder.parent.glob("levels/*/checkpoint.pt"))
    return torch.load(found[0], weights_only=True)["step"] if found else 0


def reports(folder):
    """Number of reports of training losses so far."""
    return sum(path.read_text().count("loss/total") for path in folder.parent.glob("levels/*/history.jsonl"))


def ranks(launcher):
    found = subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def test_ranks_save_and_end_with_their_launcher(training, tmp_path):
    folder, command = training
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    last = 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        before = reports(folder)  # the last ranks, which have ended, may have reported once more
        with open(tmp_path / "log", "wb") as log:
            launcher = subprocess.Popen(command, env=environment, cwd=tiny.ROOT, stdout=log, stderr=log)
        while reports(folder) < before + 2:
            assert launcher.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        started, sent = ranks(launcher.pid), time.monotonic()
        assert len(started) == 2
        launcher.send_signal(number)
        while any(os.path.exists(f"/proc/{pid}") for pid in started):
            assert time.monotonic() - sent < 20
            time.sleep(0.1)
        launcher.wait(60)
        assert step_of(folder) > last, (tmp_path / "log").read_text()
        last = step_of(folder)
    assert "hiwm train: stopped by SIGTERM. Run the same command to continue" in (tmp_path / "log").read_text()
