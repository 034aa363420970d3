"""`hiwm ablate`: variants that share levels, compared in a table and a figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml
from mlflow import MlflowClient

from hiwm.analysis import ablation
from hiwm.analysis.ablation import Cell, find, make_cells, shipped
from hiwm.cli import main
from hiwm.config import load_config
from hiwm.evaluation.statistics import bootstrap_interval


@pytest.mark.parametrize("name", shipped())
def test_every_variant_of_a_shipped_ablation_is_valid(name):
    name, described = find(name)
    cells = make_cells(name, described, [])
    assert len(cells) == len(described.seeds) * np.prod([len(values) for values in described.factors.values()])
    assert len({cell.config.folder for cell in cells}) == len(cells)
    assert all(not cell.config.evaluation.baselines for cell in cells)


@pytest.fixture
def command(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tiny.overrides(tmp_path, "training.steps=5", "tracking=none", "evaluation.max_steps=20")
    base.remove("evaluation.episodes=3")  # an ablation has its own
    described = {
        "base": [*base, f"dataset.path={tiny_run.config.dataset.path}"],
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
    assert (table[["difference", "difference_low", "difference_high"]].iloc[0] == 0).all()
    assert (
        (folder / "table.md")
        .read_text()
        .startswith("| variant (stride, graph) | success (%) | difference to the first (points) |")
    )
    assert (folder / "table.md").read_text() in said
    assert (folder / "figure.png").stat().st_size > 10_000
    # again: nothing is left to do
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "0 to train (0 optimiser steps), 8 trained before, 16 shared. 0 evaluations" in said
    assert said.count("/evaluation.json: reused") == 8
    assert main([*command, "--dry-run", "planner.level0.horizon=4"]) == 0  # of other settings
    assert "8 evaluations of 2 tasks with 2 episodes each, 0 done before" in capsys.readouterr().out


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
        ({"seeds": [0, 1, 0]}, "seeds is [0, 1, 0]; expected different seeds"),
        (
            {"factors": {"a": {"width > 64": [], "width < 64": ["levels.level2.stride=3"]}}},
            "factors give the variants 'width > 64' and 'width < 64' the same folder, mine=width_64; expected values with other",
        ),
        (
            {"factors": {"a": {"a, b": [], "a": ["levels.level2.stride=3"]}, "b": {"c": [], "b, c": ["seed=1"]}}},
            "factors give the variants 'a, b, c' and 'a, b, c' the same folder",
        ),
        (
            {"factors": {"a": {"few": [], "many": ["evaluation={episodes: 9}"]}}},
            "many: evaluation.episodes is among the overrides; expected the key episodes of the ablation instead",
        ),
        ({"factors": {"a": {"b": ["++seed=3"]}}}, "b: seed is among the overrides; expected the key seeds"),
        ({"factors": {"a": {"b": ["run=mine"]}}}, "b: run is among the overrides; expected none, because each variant"),
    ],
)
def test_mistakes_are_refused_before_any_work(command, changes, message, tmp_path, capsys):
    described = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described | changes, sort_keys=False))
    assert main(command) == 2
    assert message.split("|")[-1] in capsys.readouterr().err
    assert not (tmp_path / "levels").exists()


def test_episodes_in_the_base_are_refused(command, tmp_path, capsys):
    described = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    described["base"].append("++evaluation.episodes=9")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    assert main(command) == 2
    assert "2, follow: evaluation.episodes is among the overrides; expected the key episodes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "override", ["evaluation.episodes=9", "++evaluation.episodes=9", "++evaluation={episodes: 9, max_steps: 20}"]
)
def test_the_command_line_decides_on_the_episodes(command, override, capsys):
    assert main([*command, "--dry-run", override]) == 0
    assert "8 evaluations of 2 tasks with 9 episodes each" in capsys.readouterr().out


def test_levels_of_other_datasets_are_not_shared(command, tiny_run, tmp_path, capsys):
    described = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    described["base"].pop()  # dataset.path
    paths = {"first": tiny_run.config.dataset.path, "second": str(tmp_path / "other.h5")}
    described |= {"seeds": [0], "factors": {"data": {name: [f"dataset.path={path}"] for name, path in paths.items()}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    assert main([*command, "--dry-run"]) == 0
    assert (
        "2 variants and seeds. 6 levels: 6 to train (30 optimiser steps), 0 trained before, 0 shared"
        in capsys.readouterr().out
    )


def test_variants_have_the_folders_they_had():
    folders = [cell.config.folder.name for cell in make_cells(*find("depth"), [])]
    assert folders[:2] == ["depth=3_levels,_graph,seed0", "depth=3_levels,_graph,seed1"]


def test_a_preset_brings_back_a_level_that_its_experiment_drops(tmp_path):
    described = {
        "base": ["experiment=pointmaze-metric"],
        "seeds": [0], "episodes": 1,
        "factors": {"levels": {"two": [], "three": ["level@levels.level2=metric", "planner.level2.horizon=3"]}},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described))
    cells = {cell.variant: cell.config for cell in make_cells(*find(str(tmp_path / "mine.yaml")), [])}
    assert [len(cells[variant].levels) for variant in ("two", "three")] == [2, 3]


def agent(solved):
    """Results of an agent in two tasks."""
    tasks = {str(task): {"solved": list(row)} for task, row in enumerate(solved)}
    numbers = {"predictor_calls": 1.0, "other_calls": 0.0, "plan_ms": {"mean": 1.0}, "steps": None}
    return {"per_task": tasks, "episodes": solved.size, **numbers}


def test_differences_are_of_paired_episodes_to_the_first_variant(monkeypatch):
    """The variant solves what the reference does, and a tenth more: its difference varies less than either."""
    reference = np.random.default_rng(0).random((2, 2, 50)) < 0.5  # (seeds, tasks, episodes)
    better = reference | (np.arange(50) % 5 == 0)
    outcomes = {"reference": reference, "better": better, "none": np.zeros_like(reference)}
    cells, results = [], {}
    for variant, solved in outcomes.items():
        for seed in range(2):
            cells.append(Cell(variant, load_config([f"seed={seed}", f"run='{variant},{seed}'"])))
            results[cells[-1].config.folder / "evaluation.json"] = {
                "agents": {"hierarchical": agent(solved[seed])}, "commit": f"abc{seed}", "machine": "cpu",
            }  # fmt: skip
    monkeypatch.setattr(ablation, "read_results", results.__getitem__)
    rows = {row["variant"]: row for row in ablation.compare(ablation.agents_of(cells))}
    for variant, solved in outcomes.items():
        paired = solved.astype(float) - reference
        found = [rows[variant][key] / 100 for key in ("difference", "difference_low", "difference_high")]
        interval = (0, 0) if variant == "reference" else bootstrap_interval(paired)
        assert found == pytest.approx([paired.mean(), *interval])
        assert rows[variant]["solved"] == " ".join(str(seed.sum()) for seed in solved)
        assert (rows[variant]["commit"], rows[variant]["machine"]) == ("abc0; abc1", "cpu")
    row = rows["better"]
    assert 0 < row["difference_low"] < row["difference"] < row["difference_high"]
    assert row["difference_high"] - row["difference_low"] < (row["high"] - row["low"]) / 1.5
    assert rows["none"]["difference_high"] < 0


def test_unknown_ablations_are_refused(capsys):
    assert main(["ablate", "ablation=dept"]) == 2
    assert "ablation is 'dept'; expected one of depth, inverse" in capsys.readouterr().err
    assert main(["ablate"]) == 2
    assert main(["ablate", "ablation=nothere.yaml"]) == 2
    assert "ablation is 'nothere.yaml'; there is no such file. Expected one of depth" in capsys.readouterr().err


def test_a_misspelt_key_is_named_before_the_missing_one(command, tmp_path, capsys):
    described = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    described["factor"] = described.pop("factors")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "unknown key factor; expected one of" in error
    assert "Did you mean factors?" in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=3", "expected the key seeds of the ablation instead"),
        ("run=mine", "each variant has a folder of its own"),
    ],
)
def test_keys_that_an_ablation_sets_itself_are_refused(command, override, message, capsys):
    assert main([*command, "--dry-run", override]) == 2
    assert message in capsys.readouterr().err


def test_variants_in_other_environments_are_not_paired(command, tmp_path, capsys):
    described = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    described["factors"] = {"radius": {"small": [], "large": ["+environment.radius=0.2"]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    assert main(command) == 2
    assert "large: the environment or the evaluation differs from that of small" in capsys.readouterr().err
