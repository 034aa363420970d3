from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import tiny
import torch
from safetensors.torch import load_file

from hiwm.config import load_config
from hiwm.experiment import train


@pytest.fixture(scope="module")
def both(tiny_run, tmp_path_factory):
    """The same training by one process and by two, from the same dataset: their configs."""
    folder = tmp_path_factory.mktemp("distributed")
    more = [f"dataset.path={tiny_run.config.dataset.path}", "tracking=none", "training.evaluate_every=17"]
    more += ["training.steps=51", "graph.num_nodes=20"]
    overrides = tiny.overrides(folder / "two", *more)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MASTER_", "RANK", "WORLD_"))}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hiwm"]
    started = subprocess.Popen(
        [*launch, "train", *overrides], env=environment | {"OMP_NUM_THREADS": "1"}, cwd=tiny.ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    two = load_config(overrides)
    one = two.changed({"root": str(folder / "one")})
    try:
        train(one)
        output, _ = started.communicate(timeout=120)
    finally:
        started.kill()
    assert started.returncode == 0, output
    return one, two


def histories(config):
    """Fingerprint -> records."""
    return {
        folder.name: [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        for folder in (config.levels_folder).iterdir()
    }


def files(config):
    return {str(path.relative_to(config.folder)) for path in config.folder.rglob("*") if path.is_file()}


def assert_same_curves(both, kind):
    """Every record of that kind to 1e-4; returns the names of the curves."""
    alone, together = (histories(config) for config in both)
    assert set(alone) == set(together)
    assert len(alone) == 3
    names = set()
    for fingerprint, records in alone.items():
        assert [record["step"] for record in together[fingerprint]] == [record["step"] for record in records]
        for a, b in zip(records, together[fingerprint], strict=True):
            assert set(a) == set(b)
            for name in a:
                if name.startswith(kind):
                    names.add(name)
                    assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-7), (fingerprint, a["step"], name)
    return names


def test_two_processes_follow_the_held_out_curves_of_one(both):
    names = assert_same_curves(both, "validation/")
    assert {"validation/loss_prediction", "validation/loss_sigreg_action", "validation/state_probe_r2"} <= names


def test_two_processes_follow_the_training_curves_of_one(both):
    names = assert_same_curves(both, ("loss/", "learning_rate"))
    assert {"loss/prediction", "loss/inverse", "loss/sigreg_joint", "loss/total"} <= names


def test_two_processes_train_the_same_weights(both):
    one, two = both
    for path in (one.folder / "hierarchy").glob("level*.safetensors"):
        a, b = load_file(path), load_file(two.folder / "hierarchy" / path.name)
        assert set(a) == set(b)
        for name in a:
            assert torch.allclose(b[name], a[name], rtol=1e-3, atol=1e-4), (path.name, name)


def test_two_processes_leave_the_same_files(both):
    one, two = both
    assert files(two) == files(one)
    assert "hierarchy/graph2.safetensors" in files(two)
    assert not list(two.folder.rglob("checkpoint.pt"))
