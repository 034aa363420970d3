from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import partialmethod
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from hiwm.data.store import open_dataset
from hiwm.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from hiwm.training.distributed import Processes
from hiwm.training.loop import learning_rate_factor
from hiwm.training.specs import describe
from hiwm.training.stages import Report, train_hierarchy

ALONE = Processes(0, 1, torch.device("cpu"))
SHORT = {"steps": 30, "batch": 32, "evaluate_every": 10, "checkpoint_seconds": 0.0}


@pytest.fixture
def dataset(tiny_run):
    return open_dataset(tiny_run.config.dataset.path)


@pytest.fixture
def two_levels(tiny_run):
    return replace(tiny_run.config.hierarchy, levels=tiny_run.config.hierarchy.levels[:2])


@pytest.fixture
def short(tiny_run):
    return tiny_run.config.training.changed(SHORT)


class Killed(Exception):
    """As a signal would."""


def train(two_levels, training, dataset, folder, seed=0, kill=None, processes=ALONE, job=None):
    """Train; kill=(level, step) dies there, in the first job or in this one. Returns the hierarchy, the caches, the trained levels and the reported curves."""
    done, curves = {}, {}

    def step(k, progress):
        if kill == (k, progress.step) and job in (None, progress.job):
            raise Killed
        if progress.metrics:
            curves.setdefault(k, {}).setdefault(progress.step, {}).update(progress.metrics)

    hierarchy, caches = train_hierarchy(
        two_levels, training, dataset, seed=seed, folder=folder, processes=processes,
        report=Report(step=step, level=lambda k, trained: done.update({k: trained})),
    )  # fmt: skip
    return hierarchy, caches, done, curves


@pytest.mark.parametrize("target", [None, {"_target_": "hiwm.levels.target.EMATarget", "momentum": 0.9}])
def test_killed_and_resumed_equals_never_killed(two_levels, short, dataset, tmp_path, target):
    two_levels = replace(two_levels, levels=[two_levels.levels[0], {**two_levels.levels[1], "target": target}])
    whole, whole_caches, done, curves = train(two_levels, short, dataset, tmp_path / "whole")
    for kill in ((0, 17), (1, 23)):
        with pytest.raises(Killed):
            train(two_levels, short, dataset, tmp_path / "killed", kill=kill)
    folder = tmp_path / "killed" / whole.specs[1].fingerprint
    saved = load_checkpoint(folder / CHECKPOINT)
    assert 0 < saved["step"] < 30  # it did not start anew
    resumed, caches, redone, rest = train(two_levels, short, dataset, tmp_path / "killed")
    assert redone[0].reused
    assert not redone[1].reused
    assert min(rest[1]) >= saved["step"]
    for one, other in zip(whole.levels, resumed.levels, strict=True):
        state = other.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
    for step, metrics in rest[1].items():
        assert metrics == curves[1][step]
    assert redone[1].metrics == done[1].metrics
    assert [open_dataset(a).fingerprint for a in whole_caches] == [open_dataset(b).fingerprint for b in caches]
    assert not (folder / CHECKPOINT).exists()  # a finished level needs none


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at it where it splits the code
def test_compiled_training_is_the_same_but_for_rounding(two_levels, short, dataset, tmp_path, monkeypatch):
    # on a CPU, the code that torch's compiler writes takes a minute to build; what can go wrong here is what it is written from
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    *_, plain = train(two_levels, short, dataset, tmp_path / "plain")
    counters = torch._dynamo.utils.counters
    counters.clear()
    *_, done, compiled = train(two_levels, short.changed({"compile": True}), dataset, tmp_path / "compiled")
    assert counters["frames"]["ok"] > 0
    assert not any(trained.reused for trained in done.values())
    for k in (0, 1):
        assert compiled[k][30]["validation/loss_prediction"] == pytest.approx(
            plain[k][30]["validation/loss_prediction"], rel=1e-3
        )


def test_a_target_encoder_trails_the_encoder(two_levels, short, dataset, tmp_path):
    target = {"_target_": "hiwm.levels.target.EMATarget", "momentum": 0.9}
    two_levels = replace(two_levels, levels=[two_levels.levels[0], {**two_levels.levels[1], "target": target}])
    hierarchy, *_ = train(two_levels, short, dataset, tmp_path)
    torch.manual_seed(0)
    first = hierarchy.specs[1].build().encoder
    last = hierarchy.levels[1]
    begun, slow, fast = (
        torch.nn.utils.parameters_to_vector(part.parameters()) for part in (first, last.target.copy, last.encoder)
    )
    assert 0 < (slow - fast).norm() < (begun - fast).norm()
    assert (slow - begun).norm() > 0.1 * (fast - begun).norm()


def test_a_finished_level_is_reused(two_levels, short, dataset, tmp_path):
    first, _, done, _ = train(two_levels, short, dataset, tmp_path)
    assert [trained.reused for trained in done.values()] == [False, False]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again, _, done, curves = train(two_levels, short, dataset, tmp_path)
    assert [trained.reused for trained in done.values()] == [True, True]
    assert not curves
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == written
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    # only the top level changes: the one below is reused
    changed = copy.deepcopy(two_levels)
    changed.levels[1]["predictor"]["width"] = 16
    _, _, done, _ = train(changed, short, dataset, tmp_path)
    assert [trained.reused for trained in done.values()] == [True, False]


def fingerprints(two_levels, training, dataset, seed=0):
    return [spec.fingerprint for spec in describe(two_levels, training, dataset, seed)]


def test_fingerprints_follow_what_a_level_is_made_from(tiny_run, dataset):
    two_levels, training = tiny_run.config.hierarchy, tiny_run.config.training
    before = fingerprints(two_levels, training, dataset)
    assert before == fingerprints(two_levels, training, dataset)
    assert sorted(folder.name for folder in (tiny_run.config.levels_folder).iterdir()) == sorted(before)

    def differs(two_levels=two_levels, training=training, dataset=dataset, seed=0):
        after = fingerprints(two_levels, training, dataset, seed)
        return [a != b for a, b in zip(before, after, strict=True)]

    for k in range(3):
        changed = copy.deepcopy(two_levels)
        changed.levels[k]["loss_weights"]["inverse"] = 0.5
        assert differs(changed) == [level >= k for level in range(3)]
        changed = copy.deepcopy(two_levels)
        changed.levels[k]["stride"] += 1
        assert differs(changed) == [level >= k for level in range(3)]
    assert differs(seed=1) == [True] * 3
    assert differs(training=training.changed({"learning_rate": 1e-4})) == [True] * 3
    assert differs(replace(two_levels, validation=0.3)) == [True] * 3
    other = copy.copy(dataset)
    other.columns = {**dataset.columns, "state": dataset.columns["state"] + 1}
    other.__dict__.pop("fingerprint", None)
    assert differs(dataset=other) == [True] * 3


def test_learning_rate_schedule(tiny_run):
    config = tiny_run.config.training.changed({"steps": 100, "warmup": 0.1})
    factors = [learning_rate_factor(step, config) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert learning_rate_factor(0, config.changed({"warmup": 0.0})) == 1


def test_the_schedule_is_what_is_used(tiny_run):
    config = tiny_run.config.training
    for folder in (tiny_run.config.levels_folder).iterdir():
        records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        rates = {record["step"]: record["learning_rate"] for record in records if "learning_rate" in record}
        assert set(rates) == {0, 50}
        for step, rate in rates.items():  # the rate of the step that comes next
            assert rate == pytest.approx(config.learning_rate * learning_rate_factor(step + 1, config))


def test_the_saved_weights_are_those_of_the_hierarchy(tiny_run, agent):
    for k, spec in enumerate(agent.hierarchy.specs):
        weights = load_file(tiny_run.config.levels_folder / spec.fingerprint / "level.safetensors")
        state = agent.hierarchy.levels[k].state_dict()
        assert set(weights) == set(state)
        assert all(torch.equal(weights[name], state[name]) for name in state)


def test_training_lowers_the_loss(tiny_run):
    for folder in (tiny_run.config.levels_folder).iterdir():
        records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        held_out = {record["step"]: record for record in records if "validation/loss_inverse" in record}
        assert held_out[60]["validation/loss_inverse"] < held_out[0]["validation/loss_inverse"]


def test_a_batch_that_the_processes_cannot_share_is_refused(two_levels, short, dataset, tmp_path):
    three = Processes(0, 3, torch.device("cpu"))
    for own, where in (({}, "level0"), ({"batch": 33}, "level1")):
        levels = [{**two_levels.levels[0], "training": own}, two_levels.levels[1]]
        with pytest.raises(ValueError, match=rf"{where}: training.batch is 32; expected a multiple of the 3 processes"):
            train(replace(two_levels, levels=levels), short, dataset, tmp_path, processes=three)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 0}, r"levels.level1.stride is 0; expected a whole number of at least 1"),
        ({"stride": 1.5}, r"levels.level1.stride is 1.5; expected a whole number of at least 1"),
        ({"horizon": True}, r"levels.level1.horizon is True; expected a whole number of at least 1"),
        ({"coefs": {}}, r"unknown key levels.level1.coefs; expected one of action_encoder, "),
    ],
)
def test_keys_of_a_level_are_checked(two_levels, change, message):
    with pytest.raises(ValueError, match=message):
        replace(two_levels, levels=[two_levels.levels[0], {**two_levels.levels[1], **change}])
    lacking = {key: value for key, value in two_levels.levels[1].items() if key != "stride"}
    with pytest.raises(ValueError, match=r"levels.level1.stride is missing; expected the keys action_encoder, "):
        replace(two_levels, levels=[two_levels.levels[0], lacking])


def test_a_window_longer_than_every_episode_is_refused_before_training(two_levels, short, dataset, tmp_path):
    with pytest.raises(ValueError, match=r"levels.level1: a window of 3 steps of 30 .* the longest .* has 81"):
        train(
            replace(two_levels, levels=[two_levels.levels[0], {**two_levels.levels[1], "stride": 30}]),
            short,
            dataset,
            tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_mistakes_in_a_level_name_it(two_levels, short, dataset, tmp_path):
    for part, value, message in (
        ("predictor", {"_target_": "os.system", "command": "true"}, "levels.level1.predictor: .*not trusted"),
        ("loss_weights", {"prediction": 1.0}, "levels.level1: loss_weights"),
        ("encoder", {"_target_": "hiwm.levels.encoders.mlp.MLPEncoder", "dims": 3}, "levels.level1.encoder: .*dims"),
    ):
        changed = copy.deepcopy(two_levels)
        changed.levels[1][part] = value
        with pytest.raises(ValueError, match=message):
            train(changed, short, dataset, tmp_path)
    swapped = copy.deepcopy(two_levels)
    swapped.levels[0]["action_encoder"] = copy.deepcopy(swapped.levels[1]["action_encoder"])
    with pytest.raises(ValueError, match=r"levels.level0.action_encoder is MLPActionEncoder"):
        train(swapped, short, dataset, tmp_path)
    assert not list(tmp_path.iterdir())


def test_checkpoints_are_whole_or_the_old_ones(tmp_path):
    path = tmp_path / "checkpoint.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"step": 1})

    class Unpicklable:
        def __reduce__(self):
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        save_checkpoint(path, {"step": 2, "weights": torch.ones(1000), "end": Unpicklable()})
    assert load_checkpoint(path) == {"step": 1}


def test_a_level_may_be_trained_its_own_way(two_levels, short, dataset, tmp_path):
    own = replace(
        two_levels,
        levels=[two_levels.levels[0], {**two_levels.levels[1], "training": {"steps": 10, "evaluate_every": 5}}],
    )
    _, _, _, curves = train(own, short, dataset, tmp_path)
    assert max(curves[0]) == 30
    assert max(curves[1]) == 10
    before, after = fingerprints(two_levels, short, dataset), fingerprints(own, short, dataset)
    assert before[0] == after[0]
    assert before[1] != after[1]


def with_landmarks(two_levels):
    """With a level 1 whose regularizer looks at many windows before the training."""
    asking = {"graph": {"_target_": "hiwm.levels.regularizers.graph_distance.GraphDistance", "landmarks": 5}}
    weights = {"prediction": 1.0, "inverse": 1.0, "graph": 1.0}
    above = {**two_levels.levels[1], "regularizers": asking, "loss_weights": weights, "training": {}}
    return replace(two_levels, levels=[two_levels.levels[0], above])


def test_what_regularizers_look_at_is_announced(two_levels, short, dataset, tmp_path):
    said = []
    report = Report(
        fit=lambda k, windows: said.append((k, windows)),
        step=lambda k, progress: said.append(k) if progress.step == 1 else None,
    )
    train_hierarchy(with_landmarks(two_levels), short, dataset, seed=0, folder=tmp_path, processes=ALONE, report=report)
    assert said == [0, (1, 50_000), 1]


def test_joint_training_refuses_a_regularizer_that_looks_at_the_level_below(two_levels, short, dataset):
    wrong = with_landmarks(two_levels)
    describe(wrong, short, dataset, 0)
    with pytest.raises(
        ValueError, match=r"levels\.level1 has the regularizer graph; expected another one with training\.joint"
    ):
        describe(wrong, short.changed({"joint": True}), dataset, 0)


@pytest.mark.parametrize(
    ("training", "joint", "message"),
    [
        ({"step": 10}, False, r"levels.level1: unknown key training.step; expected one of accumulate, batch"),
        ({"joint": True}, False, r"levels.level1: unknown key training.joint; expected one of accumulate, batch"),
        ({"steps": "ten"}, False, r"levels.level1: training.steps is 'ten'; expected a whole number"),
        (
            {"steps": 10},
            True,
            r"levels.level1 has a pretraining or a training of its own; expected neither with training.joint",
        ),
    ],
)
def test_a_levels_own_training_is_checked(two_levels, short, dataset, training, joint, message):
    wrong = replace(two_levels, levels=[two_levels.levels[0], {**two_levels.levels[1], "training": training}])
    with pytest.raises(ValueError, match=message):
        describe(wrong, short.changed({"joint": joint}), dataset, 0)
