"""A level that learns its dynamics first, because a regularizer imagines."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_loop import ALONE, Killed, train

from hiwm.config import load_config
from hiwm.data.store import Writer, open_dataset
from hiwm.training.checkpoint import load_checkpoint
from hiwm.training.stages import Report, train_hierarchy

STEPS = 400
IMAGINED = "levels.level1.regularizers.imagined_distance"


@functools.cache
def config():
    return load_config([
        "level@levels.level1=metric", "regularizer@levels.level1=imagined_distance",
        "encoder@levels.level1.encoder=beside_inputs", "predictor@levels.level1.predictor=via_inputs", "~levels.level2",
        "inputs=[place,switches]", "state=[switches]", "levels.level1.stride=1", "levels.level1.horizon=1", "+levels.level1.encoder.embedded=3",
        f"training.steps={STEPS}", "training.batch=64", "training.learning_rate=0.003", "training.evaluate_every=100",
        "training.checkpoint_seconds=0", "+levels.level0.training.steps=5",
        f"+{IMAGINED}.windows=2000", f"+{IMAGINED}.anchors=16", "dataset.validation=0.1",
    ])  # fmt: skip


def write_switches(path, switches=3, steps=20, episodes=80):
    """A place that does not matter, and switches, of which each action turns one."""
    rng = np.random.default_rng(0)
    with Writer(path, {}) as writer:
        for _ in range(episodes):
            turned = np.eye(switches, dtype=np.float32)[rng.integers(0, switches, steps)]
            state = (turned.cumsum(0) - turned) % 2
            place = rng.normal(size=(steps, 1)).astype(np.float32)
            writer.append({"place": place, "switches": state, "action": 2 * turned - 1})
    return open_dataset(path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_switches(tmp_path_factory.mktemp("switches") / "switches.h5")


def folder_of(folder, hierarchy):
    return folder / hierarchy.specs[1].fingerprint / "dynamics"


def test_the_distance_counts_what_the_level_imagines(dataset, tmp_path):
    reported = []
    hierarchy, _ = train_hierarchy(
        config().hierarchy, config().training, dataset, seed=0, folder=tmp_path, processes=ALONE,
        report=Report(step=lambda k, progress: reported.append((k, progress))),
    )  # fmt: skip
    jobs = [progress.job for k, progress in reported if k == 1]
    assert jobs == sorted(jobs)  # dynamics before training
    assert set(jobs) == {"dynamics", "training"}
    first = [
        progress.metrics for k, progress in reported if k == 1 and "validation/loss_prediction" in progress.metrics
    ]
    assert first[0]["validation/loss_imagined_distance"] == 0
    assert [path.name for path in folder_of(tmp_path, hierarchy).iterdir()] == ["level.safetensors"]
    states = torch.cartesian_prod(*3 * [torch.tensor([0.0, 1.0])])
    latents = hierarchy.encode({"place": torch.zeros(8, 1), "switches": states})[1]
    apart = torch.cdist(latents, latents, p=1)
    torch.testing.assert_close(apart, torch.cdist(states, states, p=1), rtol=0, atol=0.5)


def test_killed_and_resumed_equals_never_killed(dataset, tmp_path):
    short = config().training.changed({"steps": 30})
    whole, *_ = train(config().hierarchy, short, dataset, tmp_path / "whole")
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        train(config().hierarchy, short, dataset, folder, kill=(1, 17))
    home = folder_of(folder, whole)
    assert 0 < load_checkpoint(home / "checkpoint.pt")["step"] <= 17
    with pytest.raises(Killed):
        train(config().hierarchy, short, dataset, folder, kill=(1, 23), job="training")
    assert not (home / "checkpoint.pt").exists()
    assert 0 < load_checkpoint(home.parent / "checkpoint.pt")["step"] <= 23
    resumed, *_ = train(config().hierarchy, short, dataset, folder)
    for one, other in zip(whole.levels, resumed.levels, strict=True):
        state = other.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def test_inputs_that_are_not_discrete_are_refused_before_level_1_is_trained(dataset, tmp_path):
    trained, above = [], copy.deepcopy(config().hierarchy.levels[1])
    above["encoder"]["embedded"] = 1
    continuous = replace(config().hierarchy, levels=[config().hierarchy.levels[0], above])
    with pytest.raises(ValueError, match=r"none of the 1 inputs takes between 2 and 8 values .* imagined_distance"):
        train_hierarchy(
            replace(continuous, inputs=["place"], state=["place"]), config().training, dataset, seed=0,
            folder=tmp_path, processes=ALONE, report=Report(step=lambda k, progress: trained.append(k)),
        )  # fmt: skip
    assert set(trained) == {0}
