"""Whatever uses statistics of a batch is exact under data parallelism: two processes equal one, value and gradient."""

from contextlib import ExitStack, nullcontext
from unittest import mock

import pytest
import torch
import two_processes
from test_level import CASES, build, make_clip
from test_masked import make, squares
from torch.nn.parallel import DistributedDataParallel

from hiwm.config import load_config
from hiwm.levels import masked
from hiwm.levels.distributed import average_over_processes
from hiwm.levels.encoders import conv, vit
from hiwm.levels.regularizers import pixels

PARALLEL = [name for name in CASES if name.startswith("regularizer=")] + [
    "level=pixels",
    "encoder=vit",
    "encoder=vit_patches",
    "pretraining=tubes",
    "predictor=ensemble",
]
BATCH = 8


def level_and_clip(name):
    if name.startswith("pretraining="):
        _, objective = make(name.removeprefix("pretraining="))
        return objective, squares(BATCH, objective.frames).map(torch.rand_like)
    overrides, k, inputs, stride = CASES[name]
    level = build(load_config(overrides).levels[f"level{k}"], inputs, stride)
    return level, make_clip(level, inputs, BATCH)


def losses_and_gradients(module, level, clip):
    # in full precision: rounding to half hides small errors
    with ExitStack() as stack:
        for part in (conv, vit, masked, pixels):
            stack.enter_context(mock.patch.object(part, "half_precision", nullcontext))
        losses = module(clip, torch.Generator().manual_seed(3))
        level.total(losses).backward()
    whole = average_over_processes(torch.stack(list(losses.values())).detach())
    return dict(zip(losses, whole, strict=True)), {n: p.grad for n, p in level.named_parameters()}


def save_results(rank, folder):
    for name in PARALLEL:
        level, clip = level_and_clip(name)
        share = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
        module = DistributedDataParallel(level)
        torch.save(losses_and_gradients(module, level, clip.map(lambda x, s=share: x[s])), f"{folder}/{name}{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    two_processes.run(save_results, folder)
    return folder


@pytest.mark.parametrize("name", PARALLEL)
def test_two_processes_equal_one(folder, name):
    level, clip = level_and_clip(name)
    losses, gradients = losses_and_gradients(level, level, clip)
    for rank in (0, 1):
        theirs, their_gradients = torch.load(folder / f"{name}{rank}.pt")
        for loss in losses:
            torch.testing.assert_close(theirs[loss], losses[loss], rtol=1e-5, atol=1e-5)
        for parameter, gradient in gradients.items():
            other = their_gradients[parameter]
            if gradient is None:
                assert other is None or not other.any()
            else:
                torch.testing.assert_close(
                    other, gradient, rtol=1e-4, atol=1e-5, msg=lambda m, p=parameter: f"{p}: {m}"
                )
