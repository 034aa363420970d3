from __future__ import annotations

import copy
import functools
import json
from contextlib import nullcontext
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_loop import ALONE, Killed, train

from hiwm.config import load_config
from hiwm.data.store import Writer, open_dataset
from hiwm.hierarchy import load_hierarchy
from hiwm.levels import masked
from hiwm.levels.encoders import vit
from hiwm.training import pretrain
from hiwm.training.checkpoint import load_checkpoint
from hiwm.training.pretrain import make_objective

SEEN = ["level@levels.level0=pixels", "~level@levels.level2", "inputs=[pixels]", "state=[place]"]
OWN = "levels.level0.pretraining"
TINY = [f"levels.level0.encoder.{key}" for key in ("patch=4", "width=12", "depth=1", "dim=4")]
TINY += ["levels.level1.encoder.width=16", "levels.level1.encoder.depth=1", "levels.level1.inverse.width=16"]
TINY += [f"{OWN}.objective.{key}" for key in ("width=12", "depth=1", "heads=2")]
TINY += [f"{OWN}.training.{key}" for key in ("steps=20", "batch=8", "learning_rate=0.003")]
STEPS = 20


@functools.cache
def config():
    chosen = [*SEEN, "encoder@levels.level0.encoder=vit_patches", "pretraining@levels.level0=tubes"]
    shape = ["levels.level1.stride=2", "levels.level0.horizon=2", "levels.level1.horizon=2"]
    training = ["training.steps=12", "training.batch=8", "training.evaluate_every=10", "training.checkpoint_seconds=0"]
    return load_config([*chosen, *shape, *training, *TINY])


@pytest.fixture(autouse=True, scope="module")
def full_precision():
    """Half precision compiles anew for every size of a mask."""
    off = {"half_precision": lambda device: nullcontext()}
    with mock.patch.multiple(masked, **off), mock.patch.multiple(vit, **off):
        yield


@pytest.fixture
def hierarchy():
    return copy.deepcopy(config().hierarchy)


def write_squares(path):
    """A bright square of 4 x 4 pixels that its actions move through images of 16 x 16."""
    rng = np.random.default_rng(0)
    with Writer(path, {}) as writer:
        for _ in range(8):
            action = rng.integers(-1, 2, (12, 2))
            place = np.clip(6 + np.cumsum(action, 0), 0, 12)
            pixels = np.zeros((12, 16, 16, 3), np.uint8)
            for t, (top, left) in enumerate(place):
                pixels[t, top : top + 4, left : left + 4] = 255
            writer.append({"pixels": pixels, "action": action.astype(np.float32), "place": place.astype(np.float32)})
    return open_dataset(path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_squares(tmp_path_factory.mktemp("pixels") / "squares.h5")


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *train(config().hierarchy, config().training, dataset, folder)


def trunk_folder(folder):
    (found,) = folder.glob("trunk-*")
    return found


def same(one, other):
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_level_is_trained_on_the_frozen_trunk(trained, dataset, tmp_path):
    folder, hierarchy, _, done, _ = trained
    assert [result.reused for result in done.values()] == [False, False]
    home = trunk_folder(folder)
    assert {path.name for path in home.iterdir()} == {"trunk.safetensors"}  # reports were written nowhere
    weights = load_file(home / "trunk.safetensors")
    torch.manual_seed(0)
    first = hierarchy.specs[0].build().encoder
    last = hierarchy.levels[0].encoder
    assert same(weights, last.trunk.state_dict())  # before train_level and after it
    assert not same(weights, first.trunk.state_dict())
    for name, parameter in first.head.named_parameters():
        assert not torch.equal(parameter, dict(last.head.named_parameters())[name]), name
    hierarchy.save(tmp_path)
    again = load_hierarchy(tmp_path).encode({"pixels": torch.from_numpy(np.array(dataset.column("pixels")[:5]))})
    assert [latent.shape for latent in again] == [(5, 4), (5, 4)]


def test_it_is_reported_lowers_its_loss_and_keeps_the_target(hierarchy, dataset, tmp_path, monkeypatch):
    reported, made = [], []
    from hiwm.training.stages import Report, train_hierarchy

    def make(*arguments):
        made.append(make_objective(*arguments))
        return made[-1]

    monkeypatch.setattr(pretrain, "make_objective", make)
    hierarchy, _ = train_hierarchy(
        replace(hierarchy, levels=hierarchy.levels[:1]), config().training, dataset, seed=0, folder=tmp_path,
        processes=ALONE, report=Report(step=lambda k, progress: reported.append(progress)),
    )  # fmt: skip
    assert same(hierarchy.levels[0].encoder.trunk.state_dict(), made[-1].target.copy.state_dict())
    before = [progress for progress in reported if progress.job == "pretraining"]
    assert before == reported[: len(before)]
    assert {progress.home for progress in before} == {trunk_folder(tmp_path)}
    assert before[-1].step == before[-1].steps == STEPS
    losses = [progress.metrics["validation/loss_masked"] for progress in before if len(progress.metrics) == 2]
    assert losses[-1] < losses[0]


def test_killed_and_resumed_equals_never_killed(trained, hierarchy, dataset, tmp_path):
    _, whole, *_ = trained
    for kill in ((0, 13), (0, 18)):  # the first 13 and 18 steps are of pretraining
        with pytest.raises(Killed):
            train(hierarchy, config().training, dataset, tmp_path, kill=kill)
        saved = load_checkpoint(trunk_folder(tmp_path) / "checkpoint.pt")
        assert 0 < saved["step"] <= kill[1]
    resumed, *_ = train(hierarchy, config().training, dataset, tmp_path)
    for one, other in zip(whole.levels, resumed.levels, strict=True):
        assert same(one.state_dict(), other.state_dict())
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_a_finished_trunk_is_shared_by_levels_that_differ_elsewhere(trained, hierarchy, dataset, tmp_path):
    folder, whole, *_ = trained
    written = {path: path.stat().st_mtime_ns for path in trunk_folder(folder).iterdir()}
    target = {"_target_": "hiwm.levels.target.EMATarget", "momentum": 0.9}
    hierarchy.levels[0]["predictor"]["width"] = 8
    hierarchy.levels[0]["target"] = target
    other, _, done, _ = train(hierarchy, config().training, dataset, folder)
    assert [result.reused for result in done.values()] == [False, False]
    assert {path: path.stat().st_mtime_ns for path in trunk_folder(folder).iterdir()} == written
    trunk = other.levels[0].encoder.trunk.state_dict()
    assert same(trunk, whole.levels[0].encoder.trunk.state_dict())
    assert same(trunk, other.levels[0].target.copy.trunk.state_dict())  # the level's target starts from it too


@pytest.mark.parametrize(
    ("level", "key", "value", "message"),
    [
        (1, None, {}, "levels.level1.pretraining is given; expected null above level 0"),
        (0, None, {"objective": {}}, "levels.level0.pretraining is .*expected a mapping with exactly the keys"),
        (0, "objective.frames", 13, "frames is 13, which needs episodes of 13 rows; the longest has 12"),
        (
            0,
            None,
            {"objective": None, "training": {}},
            "levels.level0.pretraining.objective is None; expected a mapping",
        ),
        (
            0,
            "objective.blocks",
            0,
            "levels.level0.pretraining.objective: blocks is 0; expected a whole number of at least 1",
        ),
        (0, "objective.heads", 0, "levels.level0.pretraining.objective: heads is 0"),
        (0, "objective.beta", -1, "levels.level0.pretraining.objective: beta is -1"),
        (0, "objective.momentum", 2, "levels.level0.pretraining.objective: momentum is 2"),
        (0, "objective.scale", 0.2, "levels.level0.pretraining.objective: scale is 0.2"),
        (0, "training.steps", 0, r"levels.level0.pretraining: training.steps is 0"),
        (0, "training.steps", "many", r"levels.level0.pretraining: training.steps is 'many'; expected a whole number"),
        (0, "training.step", 3, r"levels.level0.pretraining: unknown key training.step"),
    ],
)
def test_mistakes_are_refused_before_training(hierarchy, dataset, tmp_path, level, key, value, message):
    if key is None:
        hierarchy.levels[level]["pretraining"] = value
    else:
        section, name = key.split(".")
        hierarchy.levels[level]["pretraining"][section][name] = value
    with pytest.raises(ValueError, match=message):
        train(hierarchy, config().training, dataset, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("encoder", "message"), [("conv", "ConvEncoder"), ("vit", "encoder.read is cls")])
def test_other_encoders_are_refused_before_training(dataset, tmp_path, encoder, message):
    chosen = [
        *SEEN,
        f"encoder@levels.level0.encoder={encoder}",
        "pretraining@levels.level0=blocks",
        "levels.level1.stride=2",
    ]
    loaded = load_config(chosen)
    with pytest.raises(ValueError, match=f"levels.level0.pretraining.objective: .*{message}"):
        train(loaded.hierarchy, loaded.training, dataset, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_report_tells_pretraining_from_training(trained, hierarchy, dataset, tmp_path):
    from hiwm.progress import TrainingProgress
    from hiwm.training.diagnostics.runner import SHIPPED
    from hiwm.training.stages import Report, train_hierarchy

    class Recorded:
        def __init__(self):
            self.runs = []

        def child(self, name, parameters, tags):
            self.runs.append([name, tags["hiwm.fingerprint"], None])
            return self

        def metrics(self, values, step=0): ...

        def artifact(self, path): ...

        def finish(self, status="FINISHED"):
            self.runs[-1][2] = status

    tracker = Recorded()
    with TrainingProgress(tracker, [{}, {}], "data", SHIPPED) as progress:
        hierarchy, _ = train_hierarchy(
            hierarchy, config().training, dataset, seed=1, folder=tmp_path, processes=ALONE,
            report=Report(step=progress.step, level=progress.level),
        )  # fmt: skip
    homes = [trunk_folder(tmp_path).name, *(spec.fingerprint for spec in hierarchy.specs)]
    names = ["level 0 pretraining", "level 0", "level 1"]
    assert tracker.runs == [[name, home, "FINISHED"] for name, home in zip(names, homes, strict=True)]
    records = [json.loads(line) for line in (trunk_folder(tmp_path) / "history.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == STEPS
