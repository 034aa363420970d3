"""`hiwm ablate`: variants that share levels, compared in a table and a figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml
from mlflow import MlflowClient

from hiwm.analysis.ablation import find, make_cells, shipped
from hiwm.cli import main


@pytest.mark.parametrize("name", shipped())
def test_every_variant_of_a_shipped_ablation_is_valid(name):
    name, ablation = find(name)
    cells = make_cells(name, ablation, [])
    assert len(cells) == len(ablation.seeds) * np.prod([len(values) for values in ablation.factors.values()])
    assert len({cell.config.folder for cell in cells}) == len(cells)
    assert all(not cell.config.evaluation.baselines for cell in cells)


@pytest.fixture
def command(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    described = {
        "base": [*tiny.overrides(tmp_path, "training.steps=5", "tracking=none", "evaluation.max_steps=20"),
                 f"dataset.path={tiny_run.config.dataset.path}"],
        "seeds": [0, 1], "episodes": 2,
        "factors": {"stride": {"2": [], "3": ["levels.level2.stride=3"]}, "graph": {"follow": [], "search": ["planner.graph=search"]}},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return ["ablate", "ablation=mine.yaml"]


def test_an_ablation_trains_each_level_once(command, tmp_path, capsys):
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "8 variants and seeds. 24 levels: 8 to train (40 optimiser steps), 0 trained before, 16 shared" in said
    assert not (tmp_path / "levels").exists()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert len([*(tmp_path / "levels").glob("*/metrics.json")]) == 8
    folder = tmp_path / "ablations" / "mine"
    table = pd.read_csv(folder / "table.csv")
    assert list(table["variant"]) == ["2, follow", "2, search", "3, follow", "3, search"]
    assert set(table["seeds"]) == {2}
    assert set(table["episodes"]) == {2 * 2 * 2}  # tasks, episodes, seeds
    assert ((table["low"] <= table["success"]) & (table["success"] <= table["high"])).all()
    assert table["difference"].iloc[0] == 0
    assert (folder / "table.md").read_text() in said
    assert (folder / "figure.png").stat().st_size > 10_000
    # again: nothing is left to do
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "0 to train (0 optimiser steps), 8 trained before, 16 shared. 0 evaluations" in said
    assert said.count("/evaluation.json: reused") == 8


def test_mlflow_has_one_run_above_those_of_all_variants(command, tmp_path):
    described = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    described |= {"seeds": [0], "episodes": 1, "factors": {"stride": {"2": [], "3": ["levels.level2.stride=3"]}}}
    described["base"] = [each for each in described["base"] if each != "tracking=none"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    assert main(command) == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    whole = by_name["ablations/mine"]
    table = pd.read_csv(tmp_path / "ablations" / "mine" / "table.csv")
    assert whole.data.metrics["success/3"] == table["success"].iloc[1]
    assert {item.path for item in client.list_artifacts(whole.info.run_id)} == {"table.csv", "table.md", "figure.png"}
    below = [name for name, run in by_name.items() if run.data.tags.get("mlflow.parentRunId") == whole.info.run_id]
    assert sorted(below) == ["tiny/mine=2,seed0", "tiny/mine=3,seed0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": {"a": {"b": ["levels.level2.strid=3"]}}}, "mine.yaml|unknown key levels.level2.strid"),
        ({"factors": {"a": {}}}, "factors.a is {}; expected a mapping"),
        ({"seeds": []}, "seeds"),
        ({"episode": 3}, "unknown key episode"),
    ],
)
def test_mistakes_are_refused_before_any_work(command, changes, message, tmp_path, capsys):
    described = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described | changes, sort_keys=False))
    assert main(command) == 2
    assert message.split("|")[-1] in capsys.readouterr().err
    assert not (tmp_path / "levels").exists()


def test_unknown_ablations_are_refused(capsys):
    assert main(["ablate", "ablation=dept"]) == 2
    assert "ablation is 'dept'; expected one of depth, inverse" in capsys.readouterr().err
    assert main(["ablate"]) == 2


def test_variants_in_other_environments_are_not_paired(command, tmp_path, capsys):
    described = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    described["factors"] = {"radius": {"small": [], "large": ["+environment.radius=0.2"]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    assert main(command) == 2
    assert "large: the environment or the evaluation differs from that of small" in capsys.readouterr().err
