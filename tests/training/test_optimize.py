"""The loop on modules whose course is known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import shipped
from torch import nn

from hiwm.config import load_config
from hiwm.hierarchy import LevelSpec
from hiwm.levels.clip import Clip
from hiwm.levels.trainable import Trainable
from hiwm.training.diagnostics.episodes import Episodes
from hiwm.training.diagnostics.runner import Diagnostics
from hiwm.training.distributed import Processes
from hiwm.training.loop import evaluate_level, learning_rate_factor, optimize


class Constant(Trainable):
    """One weight, whose gradient is always 100."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, clip, generator):
        return {"height": 100 * self.weight}

    def total(self, losses):
        return losses["height"]


def lower(folder, **settings):
    """The weight after training."""
    config = shipped(
        "training", steps=10, batch=1, evaluate_every=10, checkpoint_seconds=1e9, learning_rate=0.1, **settings
    )
    clip = Clip({"state": torch.zeros(1, 2, 1)}, torch.zeros(1, 1, 1, 1), None)
    module = Constant()
    optimize(
        module, SimpleNamespace(sample=lambda batch, rng, rows: clip), config, seed=0, home=folder, evaluate=lambda module: {},
        processes=Processes(0, 1, torch.device("cpu")), report=lambda progress: None,
    )  # fmt: skip
    return config, module.weight.item()


def test_a_gradient_clipped_to_nothing_changes_nothing(tmp_path):
    assert lower(tmp_path, clip_norm=0.0, weight_decay=0.0)[1] == 1
    assert lower(tmp_path, clip_norm=1.0, weight_decay=0.0)[1] < 0.9


def test_weights_decay_by_the_learning_rate(tmp_path):
    config, weight = lower(tmp_path, clip_norm=0.0, weight_decay=0.5)
    expected = 1.0
    for step in range(10):
        expected *= 1 - 0.5 * config.learning_rate * learning_rate_factor(step, config)
    assert weight == pytest.approx(expected)
    assert weight < 0.9


def test_validation_does_not_touch_the_statistics_of_batch_norm():
    parts = load_config(["level@levels.level0=pixels", "levels.level0.encoder.width=16"]).levels["level0"]
    level = LevelSpec(parts, 1, {"pixels": (16, 16, 3)}, 2, "").build().train()
    images = torch.rand(6, level.horizon + 1, 16, 16, 3)
    before = {name: value.clone() for name, value in level.state_dict().items()}
    clip = Clip({"pixels": images}, torch.rand(6, level.horizon, 1, 2), None)
    episodes = Episodes({"pixels": images}, torch.rand(6, level.horizon + 1, 2), 0)
    evaluate_level(level, clip, episodes, Diagnostics.from_config({}))
    assert all(torch.equal(value, before[name]) for name, value in level.state_dict().items())
    assert level.training
