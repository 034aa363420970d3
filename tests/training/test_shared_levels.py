"""Experiments of one root share their levels and their MLflow database."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml
from mlflow import MlflowClient

from hiwm.cli import main
from hiwm.disk import read_json_lines
from hiwm.experiment.levels import StoredLevel, note_levels
from hiwm.locks import locked
from hiwm.training.homes import levels_of


@pytest.fixture
def overrides(tiny_run, tmp_path):
    return [*tiny.overrides(tmp_path, "training.steps=60"), f"dataset.path={tiny_run.config.dataset.path}"]


def histories(root: Path) -> dict[str, int]:
    """Level -> how often its first step was recorded."""
    return {
        path.parent.name: sum(record["step"] == 0 and "loss/total" in record for record in read_json_lines(path))
        for path in (root / "levels").glob("*/history.jsonl")
    }


def test_another_experiment_reuses_levels(overrides, tmp_path, capsys):
    assert main(["train", *overrides]) == 0
    before = histories(tmp_path)
    assert len(before) == 3
    capsys.readouterr()
    assert main(["train", *overrides, "name=other", "levels.level2.stride=3"]) == 0
    assert capsys.readouterr().out.count("trained already, reused") == 2
    after = histories(tmp_path)
    assert len(after) == 4
    assert set(after.values()) == {1}
    (new,) = set(after) - set(before)
    description = yaml.safe_load((tmp_path / "levels" / new / "level.yaml").read_text())
    assert (description["level"], description["stride"], description["seed"]) == (2, 3, 0)
    assert description["below"] in before
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert {"tiny", "other"} <= {experiment.name for experiment in client.search_experiments()}
    assert not (tmp_path / "tiny" / "mlflow.db").exists()


def test_levels_are_listed_and_pruned(overrides, tmp_path, capsys):
    root = f"root={tmp_path}"
    assert main(["levels", root]) == 2
    assert "has no trained levels" in capsys.readouterr().err
    assert main(["train", *overrides]) == 0
    assert main(["train", *overrides, "run=wider", "levels.level2.stride=3"]) == 0
    capsys.readouterr()
    assert main(["levels", root]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["0", "1", "2", "2"]
    assert [line.endswith("tiny, tiny/wider") for line in lines] == [True, True, False, False]
    (wider,) = [line.split()[0] for line in lines if line.endswith("tiny/wider") and "tiny," not in line]
    assert main(["levels", "show", wider[:8], root]) == 0
    shown = capsys.readouterr().out
    assert "used by: tiny/wider" in shown
    assert f"made from: level 1 {lines[1].split()[0]}, level 0 {lines[0].split()[0]}, dataset" in shown
    assert main(["levels", "show", "", root]) == 2
    assert main(["levels", "drop", root]) == 2
    # a run that is removed frees its own level
    assert main(["levels", "prune", root]) == 0
    assert "0 of 4 levels would be removed" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "tiny" / "wider")
    (tmp_path / "levels" / "interrupted").mkdir()
    (tmp_path / "levels" / "interrupted" / "checkpoint.pt").write_bytes(b"")
    assert main(["levels", "prune", root]) == 0
    assert (tmp_path / "levels" / wider).exists()
    with locked(tmp_path / "levels" / wider):
        assert main(["levels", "prune", "--yes", root]) == 0
    assert (tmp_path / "levels" / wider).exists()
    assert main(["levels", "prune", "--yes", root]) == 0
    assert "1 of 5 levels removed. 1 interrupted ones are kept" in capsys.readouterr().out
    assert not (tmp_path / "levels" / wider).exists()
    assert len([*(tmp_path / "levels").iterdir()]) == 4


def test_the_columns_of_the_list_are_apart(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        StoredLevel, "state", lambda level: "copy_last 0.123, state_probe_r2 0.987654321, rank_share 0.923"
    )
    (tmp_path / "levels" / "0123456789abcdef0123456789").mkdir(parents=True)
    for i in range(5):
        (tmp_path / f"run{i}").mkdir()
        note_levels(tmp_path / f"run{i}", ["0123456789abcdef0123456789"])
    assert main(["levels", f"root={tmp_path}"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert line.endswith("rank_share 0.923  run0, run1, run2 and 2 more")
    assert line.index("run0") == header.index("used by")


def test_a_finished_hierarchy_keeps_its_levels_until_another_replaces_it(overrides, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    assert main(["train", *overrides]) == 0
    noted = json.loads((tmp_path / "tiny" / "levels.json").read_text())["levels"]
    with monkeypatch.context() as patch:
        patch.setattr("hiwm.experiment.training._build_graphs", interrupted)
        assert main(["train", *overrides, "levels.level2.stride=3"]) == 130
    capsys.readouterr()
    assert main(["levels", "prune", "--yes", f"root={tmp_path}"]) == 0
    assert "0 of 4 levels removed" in capsys.readouterr().out
    assert main(["train", *overrides, "levels.level2.stride=3"]) == 0
    assert main(["levels", "prune", "--yes", f"root={tmp_path}"]) == 0
    assert "1 of 4 levels removed" in capsys.readouterr().out
    assert not (tmp_path / "levels" / noted[2]).exists()


def test_two_commands_at_once_train_each_level_once(overrides, tmp_path):
    commands = [[sys.executable, "-m", "hiwm", "train", *overrides, f"name={name}"] for name in ("one", "two")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tiny.TESTS) for command in commands]
    printed = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert histories(tmp_path) == dict.fromkeys(histories(tmp_path), 1)
    assert len(histories(tmp_path)) == 3
    assert sum(text.count("trained already, reused") for text in printed) == 3
    assert "which uses" in "".join(printed)
    one, two = ((tmp_path / name / "hierarchy" / "level2.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    for name in ("one", "two"):
        experiment = client.get_experiment_by_name(name)
        assert {run.info.status for run in client.search_runs([experiment.experiment_id])} == {"FINISHED"}
    assert not [*tmp_path.rglob("*.lock"), *tmp_path.rglob("*.tmp")]


def test_the_folder_of_levels_is_found_from_a_run(tmp_path):
    assert levels_of(tmp_path / "name") == tmp_path / "levels"
    (tmp_path / "levels").mkdir()
    for folder in ("name", "name/seed1"):
        assert levels_of(tmp_path / folder) == tmp_path / "levels"
