"""`hiwm evaluate` under torchrun: two processes share the batches and write the results of one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny

from hiwm.agent import load_agent
from hiwm.config import load_config
from hiwm.experiment import evaluate
from hiwm.experiment.evaluation import evaluation_identity
from hiwm.experiment.session import code_fingerprint
from hiwm.files import read_json

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hiwm"]


def copied(tiny_run, root, *more):
    """The command line of an evaluation of the tiny experiment under another root."""
    shutil.copytree(tiny_run.folder / "hierarchy", root / "tiny" / "hierarchy")
    shutil.copy(tiny_run.folder / "config.yaml", root / "tiny")
    given = [f"dataset.path={tiny_run.config.dataset.path}", "tracking=none", "evaluation.max_steps=30"]
    return tiny.overrides(root, *given, *more)


def torchrun(overrides):
    return subprocess.Popen(
        [*LAUNCH, "evaluate", *overrides], env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=tiny.ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(tiny_run, tmp_path_factory):
    """The folders of one process and of two, and what the two print; later attempts of one agent need earlier ones."""
    root = tmp_path_factory.mktemp("evaluated")
    more = ["planner.failure_penalty=1", "evaluation.attempts=2", "+evaluation.baselines.flat.failure_penalty=0"]
    one, two = (copied(tiny_run, root / name, *more) for name in ("one", "two"))
    process = torchrun(two)
    try:
        evaluate(load_config(one))
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return load_config(one).folder, load_config(two).folder, output


def test_two_processes_find_the_results_of_one(both):
    one, two, _ = both
    (a,), (b,) = ([*folder.glob("*.json")] for folder in (one, two))
    a, b = read_json(a), read_json(b)
    assert b.pop("machine") == f"{a.pop('machine')} in each of 2 processes"
    assert len(a["agents"]) > 3
    for numbers in (*a["agents"].values(), *b["agents"].values()):
        assert set(numbers.pop("plan_ms")) == {"mean", "p50", "p95"}
    assert b == a


def test_two_processes_record_the_traces_of_one(both):
    one, two, _ = both
    (a,), (b,) = ([*folder.glob("*.npz")] for folder in (one, two))
    with np.load(a) as a, np.load(b) as b:
        assert list(a) == list(b)
        assert len(a) > 10
        for name in a:
            np.testing.assert_array_equal(b[name], a[name])


def test_the_main_process_alone_prints_and_nothing_is_left(both):
    one, two, output = both
    assert output.count("predictor calls per environment step") == len(re.findall(r"(\d+)/\1 episodes", output)) == 6, (
        output
    )
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    assert not [*two.glob("*.parts")]


def test_an_error_of_one_process_ends_both(tiny_run, tmp_path):
    overrides = copied(tiny_run, tmp_path)
    config = load_config(overrides)
    agent = load_agent(config.folder / "hierarchy", allow=config.allow, planner=config.planner, seed=config.seed)
    parts = f"evaluation-{evaluation_identity(config, agent)}-{code_fingerprint()}.parts"
    damaged = config.folder / parts / "hierarchical" / "1-2.json"  # the second batch, which rank 1 reads
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    process = torchrun(overrides)
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "continues after 1 finished batches" in output
    assert f"hiwm evaluate: {damaged.with_suffix('.npz')} is damaged" in output, output
    assert not (config.folder / "evaluation.json").exists()
