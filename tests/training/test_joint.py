"""Joint training: the losses of staged training, with the gradient let through."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import two_processes
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from hiwm.config import load_config
from hiwm.data.store import open_dataset
from hiwm.hierarchy import LevelSpec
from hiwm.levels.clip import Clip, Pairs
from hiwm.levels.joint import JointLevels, _pairs, of_level
from hiwm.training.checkpoint import load_metrics
from hiwm.training.diagnostics.diagnostic import Diagnostic
from hiwm.training.diagnostics.runner import Diagnostics
from hiwm.training.distributed import Processes
from hiwm.training.specs import describe
from hiwm.training.stages import Report, train_hierarchy

LEVELS = [
    "level@levels.level0=abstract",
    "levels.level0.inverse.reach=3",
    "action_encoder@levels.level0.action_encoder=raw",
]
STRIDES, BATCH = (1, 3, 2), 8


class LevelNumber(Diagnostic):
    def __call__(self, level, output, episodes):
        return episodes.level_number


def make_levels():
    """Three levels over a state of size 2; a window of all of them covers 4 * 3 * 2 steps."""
    config = load_config(
        [*LEVELS, "~levels.level0.regularizers.sigreg_joint", "~levels.level0.loss_weights.sigreg_joint"]
    )
    inputs, below, levels = {"state": (2,)}, 2, []
    for k, stride in enumerate(STRIDES):
        torch.manual_seed(k)
        level = LevelSpec(config.levels[f"level{k}"], stride, inputs, below, "").build()
        levels.append(level)
        inputs, below = {"latent": (level.encoder.dim,)}, level.action_encoder.dim
    return JointLevels(levels)


def make_clip(rows=BATCH, steps=24):
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(rows, steps + 1, 2, generator=generator).cumsum(1)
    actions = torch.randn(rows, steps, 1, 2, generator=generator)
    pairs = Pairs({"state": states[:, 0]}, actions[:, 0, 0], {"state": states[:, 2]}, torch.full((rows,), 2))
    return Clip({"state": states}, actions, pairs)


def losses(module, clip):
    return module(clip, torch.Generator().manual_seed(3))


def test_a_clip_is_as_long_as_the_longest_window():
    assert make_levels().horizon == 24


def test_levels_see_what_they_would_see_one_by_one():
    joint, clip = make_levels().eval(), make_clip()
    views = joint.clips(clip, torch.Generator().manual_seed(0))
    latent = joint.levels[0].encode(clip.inputs)
    torch.testing.assert_close(views[1][0].inputs["latent"], latent[:, ::3])
    first = joint.levels[1].encode({"latent": latent})
    torch.testing.assert_close(views[2][0].inputs["latent"], first[:, ::6])
    macro = joint.levels[1].encode_actions(first[:, 6], views[1][0].actions[:, 2])
    torch.testing.assert_close(views[2][0].actions[:, 1, 0], macro)
    pairs = views[2][0].pairs
    assert pairs is not None
    at = (pairs.source["latent"].unsqueeze(1) - first[:, ::3]).norm(dim=-1).argmin(1)
    torch.testing.assert_close(pairs.target["latent"], first[torch.arange(BATCH), 3 * (at + pairs.steps)])
    assert not pairs.source["latent"].requires_grad


def test_pairs_are_one_step_to_reach_apart_and_within_the_clip():
    level = make_levels().levels[0]
    latent = torch.arange(13.0).expand(2000, 13).unsqueeze(-1)  # a moment's latent is its number
    encoded = replace(level.encode_clip(make_clip(2, 12)), latent=latent, action=latent[:, :-1])
    pairs = _pairs(encoded, 5, torch.Generator().manual_seed(0))
    source, target = pairs.source["latent"][:, 0], pairs.target["latent"][:, 0]
    assert torch.equal(pairs.action[:, 0], source)
    assert torch.equal(target - source, pairs.steps)
    assert set(source.tolist()) == set(range(12))
    assert set(target.tolist()) == set(range(1, 13))
    for moment in range(12):
        assert set(pairs.steps[source == moment].tolist()) == set(range(1, min(5, 12 - moment) + 1))


def test_the_losses_are_those_of_each_level():
    joint, clip = make_levels().eval(), make_clip()
    together = losses(joint, clip)
    generator = torch.Generator().manual_seed(3)
    views = joint.clips(clip, generator)
    for k, (level, (given, encoded)) in enumerate(zip(joint.levels, views, strict=True)):
        alone = level.losses_of(level.predict_clip(encoded.windows(level.horizon)), given.pairs, generator)
        assert set(of_level(together, k)) == set(alone) == set(level.loss_weights)
        torch.testing.assert_close(together[f"level{k}/prediction"], alone["prediction"])
    assert joint.total(together).item() == pytest.approx(
        sum(level.total(of_level(together, k)).item() for k, level in enumerate(joint.levels)), rel=1e-5
    )


def test_windows_do_not_overlap_but_in_their_ends():
    encoded = make_levels().levels[0].encode_clip(make_clip())
    cut = encoded.windows(10)
    assert cut.latent.shape[:2] == (2 * BATCH, 11)
    torch.testing.assert_close(cut.latent[1], encoded.latent[0, 10:21])
    torch.testing.assert_close(cut.action[1], encoded.action[0, 10:20])


def test_the_top_shapes_the_bottom_but_not_through_its_inverse_model():
    joint, clip = make_levels(), make_clip()
    found = losses(joint, clip)

    def reaches(name):
        parameters = list(joint.levels[0].encoder.parameters())
        return any(
            g is not None and g.any()
            for g in torch.autograd.grad(found[name], parameters, retain_graph=True, allow_unused=True)
        )

    assert reaches("level2/prediction")
    assert reaches("level1/prediction")
    assert not reaches("level2/inverse")


def save_gradients(rank, folder):
    share = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    joint = make_levels()
    module = DistributedDataParallel(joint)
    joint.total(losses(module, make_clip().map(lambda x: x[share]))).backward()
    torch.save({name: p.grad for name, p in joint.named_parameters()}, f"{folder}/{rank}.pt")


def test_two_processes_equal_one(tmp_path):
    two_processes.run(save_gradients, tmp_path)
    joint = make_levels()
    joint.total(losses(joint, make_clip())).backward()
    for rank in (0, 1):
        theirs = torch.load(tmp_path / f"{rank}.pt")
        for name, parameter in joint.named_parameters():
            torch.testing.assert_close(theirs[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_a_hierarchy_trained_jointly_is_saved_level_by_level(tiny_run, tmp_path):
    dataset = open_dataset(tiny_run.config.dataset.path)
    training = tiny_run.config.training.changed({"joint": True, "steps": 30, "batch": 16, "evaluate_every": 15})
    config, started, reports, done = tiny_run.config.hierarchy, {}, {}, {}

    def train():
        return train_hierarchy(
            config, training, dataset, seed=0, folder=tmp_path, processes=Processes(0, 1, torch.device("cpu")),
            diagnostics=Diagnostics({"level_number": LevelNumber()}),
            report=Report(
                start=lambda coverage, scale: started.update({coverage.level: scale}),
                step=lambda k, progress: reports.setdefault(k, []).append(progress),
                level=lambda k, trained: done.update({k: trained}),
            ),
        )  # fmt: skip

    hierarchy, _ = train()
    assert not any(trained.reused for trained in done.values())
    for k, spec in enumerate(hierarchy.specs):
        assert "validation/state_probe_r2" in reports[k][-1].metrics
        assert done[k].metrics["level_number"] == k
        assert any("loss/prediction" in progress.metrics for progress in reports[k])
        assert {"loss_prediction", "effective_rank"} <= set(done[k].metrics)
        assert done[k].metrics["timescale"] == started[k] > 1
        assert load_metrics(tmp_path / spec.fingerprint) == done[k].metrics
        weights = load_file(tmp_path / spec.fingerprint / "level.safetensors")
        assert all(torch.equal(weights[name], value) for name, value in hierarchy.levels[k].state_dict().items())
        assert (hierarchy.levels[k].predictor.scale != 1).all()  # it is fitted before the training
    reports.clear()
    train()
    assert all(trained.reused for trained in done.values())
    assert not reports
    staged = [spec.fingerprint for spec in describe(config, training.changed({"joint": False}), dataset, 0)]
    assert not set(staged) & {spec.fingerprint for spec in hierarchy.specs}


def train_jointly(tiny_run, folder, kill=None):
    """Returns the weights of all levels; kill=step dies there."""
    dataset = open_dataset(tiny_run.config.dataset.path)
    changes = {"joint": True, "steps": 12, "batch": 16, "evaluate_every": 6, "checkpoint_seconds": 0.0}

    def kill_at(k, progress):
        if progress.step == kill:
            raise KeyboardInterrupt

    hierarchy, _ = train_hierarchy(
        tiny_run.config.hierarchy, tiny_run.config.training.changed(changes), dataset, seed=0, folder=folder,
        processes=Processes(0, 1, torch.device("cpu")), report=Report(step=kill_at),
    )  # fmt: skip
    return hierarchy


def assert_same(one, other):
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_killed_and_resumed_equals_never_killed(tiny_run, tmp_path):
    whole = train_jointly(tiny_run, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_jointly(tiny_run, tmp_path / "killed", kill=9)
    assert (tmp_path / "killed" / whole.specs[-1].fingerprint / "checkpoint.pt").exists()
    assert_same(whole, train_jointly(tiny_run, tmp_path / "killed"))


def test_one_level_missing_means_all_are_trained_anew(tiny_run, tmp_path):
    whole = train_jointly(tiny_run, tmp_path)
    homes = [tmp_path / spec.fingerprint for spec in whole.specs]
    latents = [open_dataset(home / "latents.h5").fingerprint for home in homes]
    (homes[1] / "metrics.json").unlink()
    (homes[0] / "latents.h5").write_bytes(b"of another training")
    assert_same(whole, train_jointly(tiny_run, tmp_path))
    assert [open_dataset(home / "latents.h5").fingerprint for home in homes] == latents
