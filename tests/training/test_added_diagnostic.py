"""A diagnostic from a file outside the repository, added with one command, appears wherever the shipped ones do."""

from __future__ import annotations

import shutil

import pytest
import yaml
from mlflow import MlflowClient

from hiwm.analysis import tables
from hiwm.analysis.report import report
from hiwm.cli import main
from hiwm.config import load_config
from hiwm.training.checkpoint import load_metrics
from hiwm.training.diagnostics.diagnostic import Diagnostic
from hiwm.training.diagnostics.runner import Diagnostics

OUTSIDE = '''
"""How far the latent spreads."""

import torch

from hiwm.training.diagnostics.diagnostic import Diagnostic


class Spread(Diagnostic):
    """Largest distance of a latent from the mean, in the unit that the configuration gives."""

    label = "spread of the latent"
    format = "{:.1f} m"
    description = "Largest distance of a latent from the mean."

    def __init__(self, unit: float = 1.0) -> None:
        self.unit = unit

    def __call__(self, level, output, episodes):
        torch.rand(3)  # draws of its own disturb nothing
        return (episodes.rows - episodes.rows.mean(0)).norm(dim=1).max() / self.unit

    def alarm(self, value):
        return f"the latent spreads over {value:.1f} m" if value > 0 else None
'''
LEVEL_NUMBER = """
from hiwm.training.diagnostics.diagnostic import Diagnostic


class LevelNumber(Diagnostic):
    def __call__(self, level, output, episodes):
        return episodes.level_number
"""
ADDED = [
    "+diagnostics.spread._target_=my_diagnostics.Spread",
    "+diagnostics.spread.unit=2.0",
    "+diagnostics.level_number._target_=level_number.LevelNumber",
    "allow=[tiny,my_diagnostics,level_number]",
]


@pytest.fixture
def outside(tmp_path, monkeypatch):
    assert len(OUTSIDE.strip().splitlines()) <= 40
    (tmp_path / "my_diagnostics.py").write_text(OUTSIDE)
    (tmp_path / "level_number.py").write_text(LEVEL_NUMBER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_added_diagnostic_appears_everywhere(outside, tiny_run, capsys):
    more = [*tiny_run.overrides, f"root={outside}", f"dataset.path={tiny_run.config.dataset.path}", *ADDED]
    assert main(["train", *more]) == 0
    printed = capsys.readouterr().out
    before = {home.name: home for home in tiny_run.config.levels_folder.iterdir()}
    assert {home.name for home in (outside / "levels").iterdir()} == set(before)  # the same fingerprints
    client = MlflowClient(f"sqlite:///{outside / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    recorded = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    for k, spec in enumerate(load_specs(outside / "tiny")):
        home = outside / "levels" / spec["fingerprint"]
        weights = (home / "level.safetensors").read_bytes()
        assert weights == (before[home.name] / "level.safetensors").read_bytes()
        metrics = load_metrics(home)
        assert load_metrics(before[home.name]).items() <= metrics.items()
        assert f"spread of the latent {metrics['spread']:.1f} m" in printed
        assert f"level {k}: the latent spreads over {metrics['spread']:.1f} m" in printed
        assert recorded[f"level {k}"].data.metrics["validation/spread"] == metrics["spread"]
        assert metrics["level_number"] == k
    assert main(["evaluate", *more, "evaluation.episodes=1", "evaluation.baseline_episodes=1"]) == 0
    page = report(load_config([*more, "evaluation.episodes=1", "evaluation.baseline_episodes=1"])).read_text()
    (row,) = [line for line in page.splitlines() if "<td>spread of the latent</td>" in line]
    assert row.count(" m</td>") == 3
    assert "Largest distance of a latent from the mean." in row
    assert f"level 2: the latent spreads over {metrics['spread']:.1f} m" in page
    tables.main(["tiny"])
    assert "spread" in (outside / "levels.csv").read_text().splitlines()[0].split(",")


def test_levels_that_were_trained_before_are_measured(outside, tiny_run, capsys):
    shutil.copytree(tiny_run.root, outside, dirs_exist_ok=True)
    more = [f"root={outside}", f"dataset.path={tiny_run.config.dataset.path}", "tracking=none", *ADDED]
    assert main(["train", *tiny_run.overrides, *more]) == 0
    printed = capsys.readouterr().out
    for k, spec in enumerate(load_specs(outside / "tiny")):
        home = outside / "levels" / spec["fingerprint"]
        metrics = load_metrics(home)
        before = load_metrics(tiny_run.config.levels_folder / spec["fingerprint"])
        assert before.items() <= metrics.items()
        assert f"level {k} diagnostics: " in printed
        assert f"spread of the latent {metrics['spread']:.1f} m" in printed
    assert printed.count("trained already, reused") == 3
    assert "<td>spread of the latent</td>" in report(load_config([*tiny_run.overrides, *more])).read_text()


def load_specs(folder):
    return yaml.safe_load((folder / "hierarchy" / "hierarchy.yaml").read_text())["levels"]


class Constant(Diagnostic):
    def __call__(self, level, output, episodes):
        return 1.0


@pytest.mark.parametrize("name", ["std", "loss_mine", "timescale"])
def test_a_taken_name_is_refused(name):
    with pytest.raises(ValueError, match=rf"diagnostics\.{name} is taken; expected another name"):
        Diagnostics({name: Constant()})


def test_the_label_is_the_name_unless_the_class_has_one():
    diagnostics = Diagnostics({"mine": Constant()})
    assert diagnostics.summary({"mine": 1.0}) == "mine 1.000"
    assert diagnostics.missing({}) == list(diagnostics.by_name)


def test_what_is_no_diagnostic_is_refused():
    other = {"_target_": "hiwm.training.diagnostics.episodes.Episodes", "inputs": {}, "state": 0}
    with pytest.raises(ValueError, match=r"diagnostics\.mine makes a Episodes; expected a subclass"):
        Diagnostics.from_config({"mine": other})
    with pytest.raises(ValueError, match=r"diagnostics\.mine is 3; expected a mapping with a _target_"):
        Diagnostics.from_config({"mine": 3})
