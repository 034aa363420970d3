from __future__ import annotations

import json
import shutil

import pytest
import tiny
from mlflow import MlflowClient

from hiwm.agent import load_agent
from hiwm.config import load_config
from hiwm.data.store import open_dataset
from hiwm.experiment import evaluate, train
from hiwm.tracking import flatten, make_tracker


@pytest.fixture(scope="module")
def runs(tiny_run):
    client = MlflowClient(f"sqlite:///{tiny_run.root.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    found = client.search_runs([experiment.experiment_id])
    return client, {run.info.run_name: run for run in found}


def test_one_parent_run_with_a_child_per_level_and_per_evaluation(runs, tiny_run):
    _, by_name = runs
    assert set(by_name) == {"tiny", "level 0", "level 1", "level 2", "evaluation"}
    parent = by_name["tiny"]
    assert "mlflow.parentRunId" not in parent.data.tags
    for child in (run for run in by_name.values() if run is not parent):
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.info.status == "FINISHED"


def test_parameters_of_the_parent_are_the_composed_config(runs, tiny_run):
    _, by_name = runs
    parameters = by_name["tiny"].data.params
    expected = {key: value for key, value in flatten(tiny_run.config.as_dict()).items() if value}
    assert {key: value for key, value in parameters.items() if value} == expected
    assert parameters["training.steps"] == "60"
    assert by_name["level 1"].data.params["stride"] == "3"
    assert by_name["level 1"].data.params["encoder.width"] == "32"


def test_curves_match_the_training_history(runs, tiny_run):
    client, by_name = runs
    for k in range(3):
        run = by_name[f"level {k}"]
        assert run.data.tags["hiwm.level"] == str(k)
        history = client.get_metric_history(run.info.run_id, "loss/prediction")
        assert [point.step for point in history] == [0, 50]
        held_out = client.get_metric_history(run.info.run_id, "validation/copy_last")
        assert [point.step for point in held_out] == [0, 30, 60]
    assert "loss/sigreg_joint" in by_name["level 1"].data.metrics
    assert "loss/sigreg_joint" not in by_name["level 0"].data.metrics


def test_success_is_recorded_on_the_evaluation_and_on_the_parent(runs, tiny_run):
    _, by_name = runs
    agents = json.loads((tiny_run.folder / "evaluation.json").read_text())["agents"]
    for name, numbers in agents.items():
        assert by_name["tiny"].data.metrics[f"success/{name}"] == pytest.approx(numbers["success"])
        assert by_name["evaluation"].data.metrics[f"{name}/success"] == pytest.approx(numbers["success"])
        for task, rate in numbers["per_task"].items():
            assert by_name["evaluation"].data.metrics[f"{name}/task{task}"] == pytest.approx(rate["success"])


def test_artifacts(runs):
    client, by_name = runs

    def names(run: str, folder: str = "") -> set[str]:
        return {item.path for item in client.list_artifacts(by_name[run].info.run_id, folder or None)}

    assert names("tiny") >= {"hierarchy", "config.yaml", "report.html", "figures"}
    (version,) = names("tiny", "hierarchy")
    assert f"{version}/hierarchy.yaml" in names("tiny", version)
    assert "figures/success.png" in names("tiny", "figures")
    for k in range(3):
        assert names(f"level {k}") == {"metrics.json", "level.safetensors"}
    assert "evaluation.json" in names("evaluation")


def test_the_dataset_is_an_input_of_the_parent(runs, tiny_run):
    _, by_name = runs
    (given,) = by_name["tiny"].inputs.dataset_inputs
    dataset = open_dataset(tiny_run.config.dataset.path)
    assert (given.dataset.name, given.dataset.digest) == ("tiny", dataset.fingerprint)
    assert json.loads(given.dataset.source)["uri"] == str(dataset.path.resolve())
    assert json.loads(given.dataset.profile) == {"num_rows": dataset.num_steps}


def test_a_hierarchy_is_registered_once(tiny_run, tmp_path):
    for name in ("levels", "tiny", "datasets"):
        shutil.copytree(tiny_run.root / name, tmp_path / name, ignore=shutil.ignore_patterns("mlflow*"))
    config = load_config(tiny.overrides(tmp_path, f"dataset.path={tiny_run.config.dataset.path}"))
    for _ in range(2):
        train(config)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert len(client.search_model_versions("name = 'tiny'")) == 1
    train(config.changed({"training": {"steps": 61}}))
    versions = client.search_model_versions("name = 'tiny'")
    assert len(versions) == 2
    for version in versions:  # the later one has not replaced the earlier one
        agent = load_agent(version.source.removeprefix("file://"))
        assert version.tags["hiwm.levels"] == " ".join(spec.fingerprint for spec in agent.hierarchy.specs)


def test_later_commands_find_the_same_parent(runs, tiny_run):
    client, by_name = runs
    found = client.search_runs([by_name["tiny"].info.experiment_id], "tags.`mlflow.runName` = 'tiny'")
    assert len(found) == 1  # train, evaluate and report have recorded in it


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": "1", "a.c.d": "[2]", "e": "None"}


def test_a_half_made_database_is_replaced(tiny_run, tmp_path):
    config = tiny_run.config.changed({"root": str(tmp_path), "tracking": "mlflow"})
    (tmp_path / "mlflow.tmp").write_bytes(b"SQLite format 3\0 and no more")
    with make_tracker(config) as tracker:
        tracker.parent().metrics({"a": 1.0})
    assert (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "mlflow.tmp").exists()


def test_attempts_are_recorded(tiny_run, tmp_path):
    """As the closed-door command of the results page has them, with its names."""
    shutil.copytree(tiny_run.folder / "hierarchy", tmp_path / "tiny" / "hierarchy")
    shutil.copy(tiny_run.folder / "config.yaml", tmp_path / "tiny")
    given = [f"dataset.path={tiny_run.config.dataset.path}", "evaluation.name=closed_door", "evaluation.attempts=2"]
    given += ["evaluation.num_tasks=1", "evaluation.episodes=1", "evaluation.baseline_episodes=1"]
    config = load_config(tiny.overrides(tmp_path, *given, "evaluation.max_steps=5"))
    agents = evaluate(config)["agents"]
    assert "hierarchical, attempt 2" in agents
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (run,) = client.search_runs([experiment], "tags.`mlflow.runName` = 'closed_door'")
    assert {"hierarchical/success", "hierarchical_attempt 2/success"} <= set(run.data.metrics)
    evaluate(config)  # reused, and recorded already
    assert len(client.search_runs([experiment], "tags.`mlflow.runName` = 'closed_door'")) == 1
    # killed between the results and their recording
    for name in ("tiny/mlflow.jsonl", "tiny/mlflow.json", "mlflow.db"):
        (tmp_path / name).unlink()
    evaluate(config)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    assert client.search_runs([experiment], "tags.`mlflow.runName` = 'closed_door'")[0].info.status == "FINISHED"
