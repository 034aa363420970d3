"""Batches gathered ahead, each process's share of them, and batches in parts."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
import two_processes
from tiny import shipped
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(tiny.TESTS / "levels"))
import level_tools
import test_level

from hiwm.config import load_config
from hiwm.data.clips import ClipSampler
from hiwm.data.store import open_dataset
from hiwm.levels.clip import Clip
from hiwm.training.distributed import Processes
from hiwm.training.loader import batches
from hiwm.training.loop import _State

CPU = torch.device("cpu")
WINDOWS = 8


def numbered(step):
    return Clip({"state": torch.full((2, 3, 1), float(step))}, torch.zeros(2, 2, 1, 1), None)


def test_batches_come_in_order_and_one_is_gathered_ahead():
    drawn = []

    def draw(step):
        drawn.append(step)
        return numbered(step)

    clips = batches(draw, range(3, 7), CPU)
    assert [clip.inputs["state"][0, 0, 0].item() for clip in clips] == [3, 4, 5, 6]
    assert drawn == [3, 4, 5, 6]
    drawn.clear()
    clips = batches(draw, range(3, 7), CPU)
    next(clips)
    clips.close()  # waits for the thread
    assert drawn == [3, 4]


def test_an_error_of_the_data_is_raised_at_its_step():
    def draw(step):
        if step == 2:
            raise OSError("the disk is gone")
        return numbered(step)

    clips = batches(draw, range(5), CPU)
    next(clips), next(clips)
    with pytest.raises(OSError, match="the disk is gone"):
        next(clips)


def test_a_share_is_that_part_of_the_whole_batch(tiny_run):
    sampler = ClipSampler(
        open_dataset(tiny_run.config.dataset.path), inputs=["state"], action="action", horizon=3, stride=2,
        action_period=1, reach=4,
    )  # fmt: skip

    def tensors(*share):
        found = []
        sampler.sample(10, np.random.default_rng(5), *share).map(lambda x: found.append(x) or x)
        return found

    whole = tensors()
    assert len(whole) == 6
    for first, last in pairwise((0, 3, 10)):
        for part, every in zip(tensors(slice(first, last)), whole, strict=True):
            assert torch.equal(part, every[first:last])


def stepped(accumulate, rank=None):
    """Parameters and losses after a step of a level whose losses are means over windows."""
    plain = ["regularizer@levels.level1=none", "macro@levels.level1=none"]
    inputs = {"latent": (5,)}
    level = level_tools.build(load_config(plain).levels["level1"], inputs, 3)
    clip = test_level.make_clip(level, inputs, WINDOWS)
    if rank is not None:
        clip = clip.map(lambda x: x.chunk(2)[rank])
    state = _State(level, shipped("training", batch=WINDOWS, accumulate=accumulate), CPU)
    wrapped = level if rank is None else DistributedDataParallel(level)
    losses, _ = state.step(wrapped, clip, torch.Generator().manual_seed(0))
    return torch.nn.utils.parameters_to_vector(level.parameters()).detach(), losses


def test_a_batch_in_parts_is_the_same_step():
    (whole, losses), (parts, their_losses) = stepped(1), stepped(4)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(their_losses, losses)


def save_step(rank, folder):
    torch.save(stepped(2, rank)[0], f"{folder}/{rank}.pt")


def test_parts_of_two_processes_are_the_same_step(tmp_path):
    two_processes.run(save_step, tmp_path)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours, stepped(1)[0], rtol=1e-4, atol=1e-5)


def test_parts_that_do_not_share_the_batch_evenly_are_refused():
    with pytest.raises(ValueError, match=r"training\.batch is 12; expected a multiple of the 2 processes times 4"):
        shipped("training", batch=12, accumulate=4).check(Processes(0, 2, CPU))


def test_levels_from_before_there_were_parts_keep_their_fingerprints():
    assert "accumulate" not in shipped("training").shaping
    assert shipped("training", accumulate=2).shaping["accumulate"] == 2
