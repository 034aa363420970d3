"""Frames decoded from latents, in a world of images whose decoder is known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from hiwm.analysis import figures
from hiwm.analysis.decode import frame_decoder, predicted_frames
from hiwm.config import load_config
from hiwm.data.store import Trajectories
from hiwm.hierarchy import Hierarchy, LevelSpec

LENGTHS = np.array([50, 12, 45])


def test_frames_line_up_with_the_steps_they_are_of():
    parts = load_config(["level@levels.level0=pixels", "regularizer@levels.level0=pixels"]).levels["level0"]
    spec = LevelSpec(parts, 5, {"pixels": (8, 8, 3)}, 2, "0")
    level = spec.build().eval()
    decoder = frame_decoder(level)
    assert decoder is not None
    level.standardize.fit({"pixels": torch.full((8, 8, 3), 100.0)}, {"pixels": torch.full((8, 8, 3), 10.0)})
    for parameter in (decoder.decoder[-1].weight, decoder.decoder[-1].bias):
        torch.nn.init.zeros_(parameter)  # always the mean frame
    row = np.concatenate([np.arange(length) for length in LENGTHS]).astype(
        np.uint8
    )  # every pixel of a frame is its row number
    columns = {
        "pixels": np.broadcast_to(row[:, None, None, None], (len(row), 8, 8, 3)).copy(),
        "action": np.zeros((len(row), 2), np.float32),
    }
    data = Trajectories(Path("none"), columns, LENGTHS, np.array([0, 50, 62]))
    agent: Any = SimpleNamespace(hierarchy=Hierarchy([level], [spec]), inputs=["pixels"])
    shown = predicted_frames(agent, data)
    assert list(shown.ahead) == [0, 5, 10, 15, 20, 40]  # what the longest episode allows
    assert shown.trained == 20
    rows = shown.true[:, :, 0, 0, 0].astype(int)
    assert (rows - rows[:, :1] == shown.ahead).all()
    assert (shown.encoded == 100).all()
    assert (shown.predicted == 100).all()
    assert len(figures.frames(shown).axes) == 2 * 3 * 6


def test_other_levels_decode_nothing():
    parts = load_config(["level@levels.level0=pixels"]).levels["level0"]
    assert frame_decoder(LevelSpec(parts, 1, {"pixels": (8, 8, 3)}, 2, "0").build()) is None
