"""The networks of a level, as planning uses them."""

from __future__ import annotations

import pytest
import tiny

from hiwm.analysis.questions import Study
from hiwm.config import load_config
from hiwm.experiment import train


@pytest.fixture(scope="module")
def learned(tiny_run, tmp_path_factory):
    """A run whose encoders have learned: latents are far from those of the untrained ones."""
    root = tmp_path_factory.mktemp("learned")
    config = load_config(
        [*tiny.overrides(root, "tracking=none", "training.steps=600"), f"dataset.path={tiny_run.config.dataset.path}"]
    )
    train(config)
    return config.folder


def test_a_step_is_as_long_as_those_along_held_out_episodes(learned):
    study = Study.of(learned, allow=["tiny"])
    ratios = [model.step_length / study.step_length(k) for k, model in enumerate(study.agent.planner.models)]
    assert all(2 / 3 < ratio < 1.5 for ratio in ratios), ratios
    before = [
        level.predictor.scale.norm().item() / study.step_length(k) for k, level in enumerate(study.hierarchy.levels)
    ]
    assert min(before) < 0.5, before  # what was measured before the training
