"""`training.shard`: two processes that share the weights train what one process, or two with copies, train."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import test_pretrain
import torch
import two_processes
from safetensors.torch import load_file
from test_loop import ALONE, Killed, train

from hiwm.data.store import open_dataset
from hiwm.hierarchy import LevelSpec
from hiwm.levels import masked
from hiwm.levels.clip import Clip
from hiwm.levels.encoders import vit
from hiwm.training.checkpoint import load_checkpoint
from hiwm.training.distributed import Processes, barrier
from hiwm.training.loop import _State
from hiwm.training.pretrain import make_objective
from hiwm.training.wrapping import finish, own, wrap
from hiwm.training.wrapping import trained as trained_module

STEPS = 8


def config(**changes):
    """Level 0: a pretrained vision transformer with a target encoder; level 1: small networks."""
    whole = test_pretrain.config()
    level0 = {**whole.hierarchy.levels[0], "target": {"_target_": "hiwm.levels.target.EMATarget", "momentum": 0.9}}
    level0["pretraining"] = {**level0["pretraining"], "training": {"steps": STEPS}}
    hierarchy = replace(whole.hierarchy, levels=[level0, *whole.hierarchy.levels[1:]])
    training = whole.training.changed({"steps": STEPS, "evaluate_every": 4, "checkpoint_seconds": 0, **changes})
    return hierarchy, training


@contextmanager
def exact():
    """Without half precision, and with an Adam that does not divide rounding errors by rounding errors."""
    off = {"half_precision": lambda device: nullcontext()}
    adam = mock.patch.object(torch.optim, "AdamW", partial(torch.optim.AdamW, eps=1e-3))
    with mock.patch.multiple(masked, **off), mock.patch.multiple(vit, **off), adam:
        yield


def trained(folder, name, processes, kill=None, **changes):
    """The curves of a training."""
    hierarchy, training = config(**changes)
    with exact():
        return train(hierarchy, training, open_dataset(f"{folder}/data.h5"), Path(folder, name), kill=kill,
                     processes=processes)[3]  # fmt: skip


def train_together(rank, folder):
    two = Processes(rank, 2, torch.device("cpu"))
    curves = trained(folder, "sharded", two, shard=True)
    for kill in ((0, 5), (1, 5)):
        with pytest.raises(Killed):
            trained(folder, "resumed", two, kill=kill, shard=True)
    if rank == 0:
        shutil.copytree(f"{folder}/resumed", f"{folder}/alone")
    barrier()
    trained(folder, "resumed", two, shard=True)
    parts = [step_in_parts(shard, two) for shard in (True, False)]
    torch.save((curves, *parts), f"{folder}/{rank}.pt")


def step_in_parts(shard, processes):
    """The weights of the objective of the pretraining after a step in two parts, the norm of the gradient, and memory."""
    hierarchy, training = config(accumulate=2)
    torch.manual_seed(0)
    level = LevelSpec(hierarchy.levels[0], 1, {"pixels": (16, 16, 3)}, 2, "").build()
    objective = make_objective(level, hierarchy.levels[0]["pretraining"], [])
    pixels = torch.rand(4, objective.frames, 16, 16, 3, generator=torch.Generator().manual_seed(processes.rank))
    clip = Clip({"pixels": pixels}, torch.zeros(4, objective.frames - 1, 1, 2), None)
    with exact():
        wrapped = wrap(objective, processes, compile=False, shard=shard)
        state = _State(trained_module(wrapped), training, processes.device)
        norm = state.step(wrapped, clip, torch.Generator().manual_seed(1))[1]
    held = sum(own(x).numel() for numbers in state.optimizer.state.values() for x in numbers.values() if x.dim())
    finish(wrapped, objective, processes)
    return {**objective.state_dict(), "norm": norm}, held


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    test_pretrain.write_squares(folder / "data.h5")
    two_processes.run(train_together, folder)
    return folder


def tensors(folder, name):
    """Of all trained levels and trunks."""
    return {
        (path.parent.name, key): value
        for path in (folder / name).glob("*/*.safetensors")
        for key, value in load_file(path).items()
    }


def assert_same(folder, a, b, **tolerance):
    first, second = tensors(folder, a), tensors(folder, b)
    assert set(first) == set(second)
    assert len({home for home, _ in first}) == 3
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def test_the_processes_follow_the_curves_of_one(folder):
    alone = trained(folder, "one", ALONE)
    together = torch.load(folder / "0.pt")[0]
    assert set(alone) == set(together) == {0, 1}
    for k, steps in alone.items():
        assert set(together[k]) == set(steps)
        for step, metrics in steps.items():
            for name, value in metrics.items():
                assert together[k][step][name] == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True), (k, step, name)
    assert_same(folder, "sharded", "one", rtol=1e-4, atol=1e-5)


def test_parts_of_a_batch_are_summed_as_with_copies(folder):
    for rank in (0, 1):
        _, (sharded, _), (copied, _) = torch.load(folder / f"{rank}.pt")
        assert set(sharded) == set(copied)
        for name, value in copied.items():
            torch.testing.assert_close(sharded[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_killed_training_resumes_exactly(folder):
    assert_same(folder, "resumed", "sharded", rtol=0, atol=0)


def test_one_process_resumes_from_the_checkpoint_of_two(folder):
    (path,) = (folder / "alone").glob("*/checkpoint.pt")
    state = load_checkpoint(path)
    assert 0 < state["step"] < STEPS
    trained(folder, "alone", ALONE)
    assert_same(folder, "alone", "sharded", rtol=1e-4, atol=1e-5)


def test_each_process_holds_about_half_of_the_optimiser_state(folder):
    held = [torch.load(folder / f"{rank}.pt")[1:] for rank in (0, 1)]
    (first, whole), (second, _) = [[numbers for _, numbers in parts] for parts in held]
    assert first + second == whole
    assert 0.4 < first / whole < 0.6


def test_a_shard_changes_no_fingerprint_and_cannot_be_compiled():
    _, training = config(shard=True)
    assert training.shaping == config(shard=False)[1].shaping
    training.changed({"compile": True}).check(ALONE)
    with pytest.raises(ValueError, match=r"training.shard and training.compile are true; expected at most one"):
        training.changed({"compile": True}).check(Processes(0, 2, torch.device("cpu")))
