"""Training that diverges or that a signal stops: what is saved, and what the next command makes of it."""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hiwm.data.store import open_dataset
from hiwm.signals import Stopped, raising
from hiwm.training import loop
from hiwm.training.checkpoint import CHECKPOINT, METRICS, WEIGHTS, load_checkpoint
from hiwm.training.distributed import Processes
from hiwm.training.divergence import Diverged, DivergenceCheck
from hiwm.training.specs import describe
from hiwm.training.stages import Report, train_hierarchy

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture
def dataset(tiny_run):
    return open_dataset(tiny_run.config.dataset.path)


@pytest.fixture
def levels(tiny_run):
    return replace(tiny_run.config.hierarchy, levels=tiny_run.config.hierarchy.levels[:1])


@pytest.fixture
def short(tiny_run):
    return tiny_run.config.training.changed({"steps": 30, "batch": 32, "evaluate_every": 10})


def train(levels, training, dataset, folder, signals=None):
    """Train; `signals` maps a step of level 0 to a signal that arrives there."""
    steps = []

    def report(k, progress):
        steps.append(progress.step)
        if signals and progress.step in signals and not progress.metrics:
            os.kill(os.getpid(), signals.pop(progress.step))

    try:
        with raising():
            hierarchy, _ = train_hierarchy(
                levels, training, dataset, seed=0, folder=folder, processes=ALONE, report=Report(step=report)
            )
    except Stopped as stopped:
        return stopped, steps
    return hierarchy, steps


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_a_checkpoint_from_which_training_goes_on_exactly(levels, short, dataset, tmp_path, number):
    whole, _ = train(levels, short, dataset, tmp_path / "whole")
    home = tmp_path / "stopped" / whole.specs[0].fingerprint
    stopped, _ = train(levels, short, dataset, tmp_path / "stopped", {17: number})
    assert stopped.status == 128 + number
    assert load_checkpoint(home / CHECKPOINT)["step"] == 18  # the step that was under way is finished
    resumed, steps = train(levels, short, dataset, tmp_path / "stopped")
    assert min(steps) == 18
    state = resumed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())


def test_a_signal_during_a_validation_ends_it_and_saves(levels, short, dataset, tmp_path, monkeypatch):
    whole, _ = train(levels, short, dataset, tmp_path / "whole")
    evaluate, called = loop.evaluate_level, []

    def slow(*arguments):
        called.append(len(called))
        if len(called) == 2:  # at step 10
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return evaluate(*arguments)

    monkeypatch.setattr(loop, "evaluate_level", slow)
    start = time.monotonic()
    stopped, steps = train(levels, short, dataset, tmp_path / "stopped")
    assert time.monotonic() - start < 30
    assert stopped.status == 143
    assert steps.count(10) == 0  # neither validated nor trained
    assert load_checkpoint(tmp_path / "stopped" / whole.specs[0].fingerprint / CHECKPOINT)["step"] == 10
    resumed, steps = train(levels, short, dataset, tmp_path / "stopped")
    assert steps.count(10) == 2  # the validation and the step
    state = resumed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())


def test_a_diverging_training_stops_and_is_not_saved(levels, short, dataset, tmp_path):
    wild = short.changed({"learning_rate": 1e6, "steps": 200, "warmup": 0.5, "checkpoint_seconds": 0.0})
    expected = r"level 0: .* is \S+ at step [\d,]+; expected a finite number .* begins at the rows \d+, .*learning_rate"
    home = tmp_path / describe(levels, wild, dataset, 0)[0].fingerprint
    for _ in range(2):  # the second command reuses nothing that is broken
        with pytest.raises(Diverged, match=expected):
            train(levels, wild, dataset, tmp_path)
        assert not (home / WEIGHTS).exists()
        assert not (home / METRICS).exists()
        saved = load_checkpoint(home / CHECKPOINT)
        assert saved is None or all(torch.isfinite(value).all() for value in saved["module"].values())


@pytest.mark.parametrize("device", ["cpu", "meta-like"])
def test_the_rows_of_a_bad_batch_are_named(levels, dataset, device):
    from hiwm.data.clips import ClipSampler

    states = np.array(dataset.column("state"))
    sampler = ClipSampler(dataset, inputs=["state"], action="action", horizon=3, stride=1, action_period=1, reach=None)
    starts = sampler.rows(64, np.random.default_rng([0, 5]))
    states[starts[7]] = np.nan
    sampler.inputs["state"] = states
    watch = DivergenceCheck(sampler, 64, 0, torch.device("cpu"))
    if device != "cpu":  # the way of a GPU, where nothing is looked at before a save
        watch.device = torch.device("cuda")
        watch.gradient(4, torch.tensor(1.0))
        watch.check()
        watch.gradient(5, torch.tensor(torch.nan))
        watch.gradient(6, torch.tensor(torch.nan))
        with pytest.raises(Diverged) as caught:
            watch.check()
    else:
        watch.gradient(4, torch.tensor(1.0))
        with pytest.raises(Diverged) as caught:
            watch.gradient(5, torch.tensor(torch.nan))
    message = str(caught.value)
    assert "is nan at step 5;" in message
    bad = re.search(r"begin at the rows ([\d, ]+) hold", message)
    assert bad is not None
    assert str(starts[7]) in bad[1].split(", ")


def test_losses_may_not_explode():
    watch = DivergenceCheck.__new__(DivergenceCheck)
    watch.device = torch.device("cpu")
    watch._stop = lambda step, what, value: pytest.fail(what)  # type: ignore[method-assign]
    watch.losses(3, {"loss/total": 1e7})
    for value in (1e9, -1e9, float("nan"), float("inf")):
        with pytest.raises(pytest.fail.Exception, match="loss/total"):
            watch.losses(3, {"loss/total": value})


def test_a_level_with_broken_weights_is_trained_anew(levels, short, dataset, tmp_path):
    whole, _ = train(levels, short, dataset, tmp_path)
    path = tmp_path / whole.specs[0].fingerprint / WEIGHTS
    weights = load_file(path)
    broken = {
        name: torch.full_like(value, torch.nan) if value.is_floating_point() else value
        for name, value in weights.items()
    }
    save_file(broken, path)
    again, steps = train(levels, short, dataset, tmp_path)
    assert max(steps) == 30
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
