"""Peak memory of the heads does not grow with the dataset, and large columns make the same heads as small ones."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import shipped

from hiwm.data.store import Trajectories
from hiwm.heads import optimize
from hiwm.heads.action_prior import fit_action_prior
from hiwm.heads.optimize import FitData
from hiwm.heads.state_readout import fit_state_readout
from hiwm.heads.value import fit_value
from hiwm.levels.parts import Predictor

CODE = """
import resource, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
import numpy as np
from hiwm.data.actions import action_range
from hiwm.data.store import Writer, open_dataset
from hiwm.heads.action_bank import build_action_bank
from test_memory_of_fitting import fit
from tiny import shipped

path, rng = Path(sys.argv[1]), np.random.default_rng(0)
with Writer(path, {}) as writer:
    for _ in range(int(sys.argv[2])):
        writer.append({name: rng.standard_normal((1000, 16), np.float32) for name in ("latent", "action")})
latents = open_dataset(path)
action_range(latents)
build_action_bank(latents, 2, shipped("action_bank"), 0)
for head in ("action_prior", "state_readout", "value"):
    fit(head, latents, latents.column("latent"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Still(Predictor):
    def __init__(self, dim):
        super().__init__(dim)

    def forward(self, latent, action):
        return latent


def fit(head, latents, part):
    data = FitData(latents, validation=0.1, seed=0, device=torch.device("cpu"))
    small = {"width": 32, "depth": 1, "steps": 20, "batch": 256}
    if head == "action_prior":
        return fit_action_prior(data, 2, shipped("action_prior", levels=[1], **small))
    if head == "value":
        return fit_value(data, part, 2, shipped("value", levels=[1], **small))
    return fit_state_readout(data, Still(latents.column("latent").shape[1]), 2, part, shipped("goal", **small))


@pytest.mark.slow
def test_fitting_heads_takes_as_much_for_ten_times_the_data(tmp_path, capsys):
    peaks = []
    for episodes in (100, 1000):  # 13 and 128 MB
        done = subprocess.run(
            [sys.executable, "-c", CODE, tmp_path / "latents.h5", str(episodes), __file__.rpartition("/")[0]],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout) / 1024)
        (tmp_path / "latents.h5").unlink()
    with capsys.disabled():
        print(f"\npeak memory of fitting heads to 100,000 and 1,000,000 rows: {peaks[0]:.0f} and {peaks[1]:.0f} MB")
    assert peaks[1] < 1.1 * peaks[0], peaks


@pytest.mark.parametrize("head", ["action_prior", "state_readout", "value"])
def test_rows_that_stay_in_the_file_make_the_same_head(tmp_path, monkeypatch, head):
    rng = np.random.default_rng(0)
    columns = {name: rng.standard_normal((600, 3), np.float32) for name in ("latent", "action")}
    lengths = np.array([100, 50, 1, 149, 200, 100])
    latents = Trajectories(tmp_path, columns, lengths, np.cumsum(lengths) - lengths)
    part = columns["latent"][:, :2].copy()
    kept = fit(head, latents, part).state_dict()
    monkeypatch.setattr(optimize, "RESIDENT_BYTES", 0)
    read = fit(head, latents, part).state_dict()
    assert all(torch.equal(value, read[name]) or value.isnan().all() for name, value in kept.items())


def test_rows_of_episodes_are_counted_not_listed(tmp_path):
    lengths = np.array([6, 1, 3, 2, 5])
    episodes = Trajectories(tmp_path, {"x": np.zeros((17, 1))}, lengths, np.cumsum(lengths) - lengths)
    for part in (episodes, *episodes.split(0.4)):
        for period in (0, 1, 2, 4, 7):
            rows = optimize.EpisodeRows(part, period, torch.device("cpu"))
            wanted = part.starts(period) if period else part.rows
            assert rows[torch.arange(len(rows))].tolist() == wanted.tolist()
            assert rows.spread(100).tolist() == wanted.tolist()
            if len(rows) > 2:
                assert rows.spread(2).tolist() == [wanted[0], wanted[-1]]
