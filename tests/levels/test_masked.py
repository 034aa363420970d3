from __future__ import annotations

import functools
from contextlib import nullcontext

import pytest
import torch

from hiwm.build import build
from hiwm.config import load_config
from hiwm.hierarchy import LevelSpec
from hiwm.levels import masked
from hiwm.levels.clip import Clip
from hiwm.levels.masked import MaskedPrediction

IMAGE = {"pixels": (16, 16, 3)}
SMALL = [f"levels.level0.encoder.{key}" for key in ("patch=4", "width=24", "depth=2", "dim=5")]
SMALL += [f"levels.level0.pretraining.objective.{key}" for key in ("width=12", "depth=1")]


@pytest.fixture(autouse=True)
def full_precision(request, monkeypatch):
    """But in one test: half precision hides small numbers, and compiles anew for every size of a mask."""
    if "half" not in request.node.name:
        monkeypatch.setattr(masked, "half_precision", lambda device: nullcontext())


@functools.cache
def parts(name):
    choose = ["level@levels.level0=pixels", "encoder@levels.level0.encoder=vit_patches"]
    return load_config([*choose, f"pretraining@levels.level0={name}", *SMALL]).levels["level0"]


def make(name="tubes", **changes):
    """A level and what it is pretrained by."""
    torch.manual_seed(0)
    level = LevelSpec(parts(name), 1, IMAGE, 2, "0").build()
    config = {**parts(name)["pretraining"]["objective"], **changes}
    return level, build(config, encoder=level.encoder, standardize=level.standardize)


def squares(batch, frames):
    """A clip of bright squares that move to the right."""
    pixels = torch.zeros(batch, frames, *IMAGE["pixels"])
    corners = torch.randint(0, 12 - frames, (batch, 2), generator=torch.Generator().manual_seed(0))
    for row, (top, left) in enumerate(corners.tolist()):
        for t in range(frames):
            pixels[row, t, top : top + 4, left + t : left + t + 4] = 1.0
    return Clip({"pixels": pixels}, torch.zeros(batch, frames - 1, 1, 2), None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["blocks", "tubes"])
def objective(request):
    return make(request.param)[1]


def test_without_pretraining_there_is_none():
    for level in load_config([]).levels.values():
        assert level["pretraining"] is None


def test_shapes_in_half_precision(objective):
    images = squares(3, objective.frames).inputs["pixels"]
    visible, hidden = objective.draw_mask(generator())
    shape = (3, objective.frames, len(hidden), 24)
    assert objective.predict(images, visible, hidden).shape == objective.targets(images, hidden).shape == shape
    loss = objective(squares(3, objective.frames), generator())["masked"]
    assert loss.shape == ()
    assert loss > 0


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_a_mask_hides_some_patches_and_shows_the_others(patch, objective):
    level = LevelSpec({**parts("blocks"), "encoder": {**parts("blocks")["encoder"], "patch": patch}}, 1, IMAGE, 2, "0")
    level = level.build()
    config = {**parts("blocks")["pretraining"]["objective"], "blocks": objective.blocks, "scale": objective.scale}
    small = build(config, encoder=level.encoder, standardize=level.standardize)
    drawn = set()
    for seed in range(50):
        visible, hidden = small.draw_mask(generator(seed))
        assert len(visible) >= 1
        assert len(hidden) >= 1
        assert sorted([*visible.tolist(), *hidden.tolist()]) == list(range((16 // patch) ** 2))
        again = small.draw_mask(generator(seed))
        assert torch.equal(again[1], hidden)
        drawn.add(tuple(hidden.tolist()))
    assert len(drawn) > (2 if patch == 8 else 20)


def test_one_block_is_a_rectangle_of_the_size_asked_for():
    _, objective = make("blocks", blocks=1, scale=[0.25, 0.25], aspect=[1.0, 1.0])
    corners = set()
    for seed in range(200):
        cells = [divmod(i, 4) for i in objective.draw_mask(generator(seed))[1].tolist()]
        top, left = cells[0]
        assert cells == [(top + i, left + j) for i in (0, 1) for j in (0, 1)]
        corners.add((top, left))
    assert corners == {(i, j) for i in range(3) for j in range(3)}


def test_blocks_have_every_size_between_the_least_and_the_largest():
    _, objective = make("blocks", blocks=1, scale=[1 / 16, 9 / 16], aspect=[1.0, 1.0])
    assert {len(objective.draw_mask(generator(seed))[1]) for seed in range(100)} == {1, 4, 9}


def test_targets_are_normalised_whatever_the_trunk_puts_out():
    _, objective = make("blocks")
    last = objective.target.copy.transformer.norm
    with torch.no_grad():
        last.weight.copy_(torch.linspace(1, 5, 24))
        last.bias.fill_(3)
    targets = objective.targets(squares(3, 1).inputs["pixels"], torch.arange(16))
    torch.testing.assert_close(targets.mean(-1), torch.zeros(3, 1, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(-1, correction=0), torch.ones(3, 1, 16), atol=1e-3, rtol=0)


def test_predictions_come_in_the_order_of_the_masked_patches(objective):
    images = squares(3, objective.frames).inputs["pixels"]
    visible, hidden = torch.arange(10), torch.arange(10, 16)
    predicted = objective.predict(images, visible, hidden)
    torch.testing.assert_close(
        objective.predict(images, visible, hidden.flip(0)), predicted.flip(2), atol=1e-5, rtol=1e-4
    )


def patch_pixels(numbers):
    """Which pixels of a 16 x 16 image lie in the patches of 4 x 4 of those numbers."""
    inside = torch.zeros(16, dtype=torch.bool).index_fill(0, numbers, True).view(4, 4)
    return inside.repeat_interleave(4, 0).repeat_interleave(4, 1)


def test_predictions_do_not_see_what_is_masked_and_targets_do(objective):
    images = squares(3, objective.frames).inputs["pixels"]
    visible, hidden = objective.draw_mask(generator())
    before = objective.predict(images, visible, hidden), objective.targets(images, hidden)
    elsewhere = torch.where(patch_pixels(hidden)[..., None], torch.randn_like(images), images)
    assert torch.equal(objective.predict(elsewhere, visible, hidden), before[0])
    assert not torch.allclose(objective.targets(elsewhere, hidden), before[1])
    seen = torch.where(patch_pixels(visible)[..., None], torch.randn_like(images), images)
    assert not torch.allclose(objective.predict(seen, visible, hidden), before[0])


def test_rows_do_not_see_each_other_and_frames_do():
    _, objective = make("tubes")
    images = squares(3, objective.frames).inputs["pixels"]
    visible, hidden = objective.draw_mask(generator())
    before = objective.predict(images, visible, hidden)
    changed = images.clone()
    changed[1, 0] += 1
    moved = (objective.predict(changed, visible, hidden) - before).abs().amax((2, 3))
    assert (moved[1] > 1e-4).all()  # every frame of the row
    assert (moved[[0, 2]] < 1e-5).all()


def test_the_gradient_reaches_all_but_the_target(objective):
    clip = squares(3, objective.frames).map(torch.rand_like)
    objective(clip, generator())["masked"].backward()
    for name, parameter in objective.named_parameters():
        if name.startswith("target."):
            assert parameter.grad is None
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_the_target_follows_the_trunk(objective):
    before = [p.clone() for p in objective.target.parameters()]
    with torch.no_grad():
        for p in objective.trunk.parameters():
            p.add_(1)
    objective.after_step()
    kept = parts("tubes" if objective.frames > 1 else "blocks")["pretraining"]["objective"]["momentum"]
    for mine, old, theirs in zip(objective.target.parameters(), before, objective.trunk.parameters(), strict=True):
        torch.testing.assert_close(mine, kept * old + (1 - kept) * theirs)


def test_training_lowers_the_loss(objective):
    clip = squares(32, objective.frames)
    before = objective.evaluate(clip)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], 2e-3)
    for step in range(30):
        optimizer.zero_grad()
        objective.total(objective(clip, generator(step))).backward()
        optimizer.step()
        objective.after_step()
    after = objective.evaluate(clip)
    assert after["loss_masked"] < 0.8 * before["loss_masked"]
    assert after["target_std"] > 0.5 * before["target_std"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"blocks": 0}, "blocks is 0"),
        ({"scale": [0.2]}, r"scale is \[0.2\]"),
        ({"scale": [0.2, 1.0]}, r"scale is \[0.2, 1.0\]"),
        ({"aspect": [2.0, 1.0]}, r"aspect is \[2.0, 1.0\]"),
        ({"width": 13}, "multiple of heads"),
        ({"ratio": 0.5}, "ratio"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make("blocks", **changes)


def test_encoders_without_trained_patches_are_refused():
    for choice, message in (("conv", "encoder is ConvEncoder; expected a ViTEncoder"), ("vit", "encoder.read is cls")):
        config = load_config(["level@levels.level0=pixels", f"encoder@levels.level0.encoder={choice}"])
        level = LevelSpec(config.levels["level0"], 1, IMAGE, 2, "0").build()
        own = {k: v for k, v in parts("blocks")["pretraining"]["objective"].items() if k != "_target_"}
        with pytest.raises(ValueError, match=message):
            MaskedPrediction(encoder=level.encoder, standardize=level.standardize, **own)
