"""What MLflow refuses, has lost or answers into the void costs no other record, and doubles none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from hiwm.cli import main
from hiwm.tracking.buffer import Buffer
from hiwm.tracking.delivery import Delivery


class FakeMLflow:
    """Runs "1", "2", ... with their points, kept twice if they are sent twice, as in stores of plain files."""

    def __init__(self) -> None:
        self.points: dict[str, list[Any]] = {}
        self.gone: set[str] = set()
        self.losing = False  # the next answer
        self.asked = 0  # for the experiment

    def get_experiment_by_name(self, name: str) -> Any:
        self.asked += 1
        return SimpleNamespace(experiment_id=str(self.asked))

    def create_run(self, experiment: str, time: int, tags: dict[str, str]) -> Any:
        run = str(len(self.points) + 1)
        self.points[run] = []
        return SimpleNamespace(info=SimpleNamespace(run_id=run))

    def get_run(self, run: str) -> None:
        if run in self.gone:
            raise MlflowException("it is gone", RESOURCE_DOES_NOT_EXIST)

    def log_batch(self, run: str, metrics: list[Any]) -> None:
        self.get_run(run)
        self.points[run] += metrics
        if self.losing:
            self.losing = False
            raise ConnectionError

    def get_metric_history(self, run: str, key: str) -> list[Any]:
        return [point for point in self.points[run] if point.key == key]


@pytest.fixture
def fake(monkeypatch):
    client = FakeMLflow()
    monkeypatch.setattr("hiwm.tracking.delivery.connect", lambda *_: client)
    return client


@pytest.fixture
def buffer(tmp_path):
    return Buffer(tmp_path / "one")


def runs(buffer: Buffer, *names: str) -> list[str]:
    """A run of the experiment, with others below it."""
    parent = buffer.run("some", buffer.path.parent.name, None, {}, {})
    return [parent, *(buffer.run("some", name, parent, {}, {}) for name in names)]


def sync(capsys: pytest.CaptureFixture[str], buffer: Buffer) -> str:
    """What is said while everything is delivered."""
    assert main(["mlflow", "sync", str(buffer.path.parent)]) == 0
    return "".join(capsys.readouterr())


def found(buffer: Buffer) -> tuple[MlflowClient, dict[str, str]]:
    """Name -> id of all runs in the database, of which each name has one."""
    client = MlflowClient(f"sqlite:///{buffer.path.parent.parent.resolve() / 'mlflow.db'}")
    there = client.search_runs([client.get_experiment_by_name("some").experiment_id])
    names = {run.info.run_name: run.info.run_id for run in there}
    assert len(names) == len(there)
    return client, names


def clear(buffer: Buffer) -> None:
    """Remove all runs for good, as `mlflow gc` does."""
    client, names = found(buffer)
    for run in names.values():
        client.delete_run(run)
        client._tracking_client.store._hard_delete_run(run)


def test_a_refused_run_costs_no_other_its_points(buffer, capsys):
    _, *levels = runs(buffer, "level 0", "level 1")
    assert "MLflow: 6 records delivered" in sync(capsys, buffer)  # three runs and how they ended
    client, names = found(buffer)
    client.delete_run(names["level 0"])
    for step in range(50):
        for run in levels:
            buffer.metrics(run, {"loss": 1.0}, step)
    said = sync(capsys, buffer)
    assert "MLflow refused 50 records; the first: metrics: " in said
    assert "MLflow: 50 records delivered" in said
    assert [point.step for point in client.get_metric_history(names["level 1"], "loss")] == list(range(50))


def test_one_refused_record_is_one_record(buffer, capsys):
    _, level = runs(buffer, "level 0")
    sync(capsys, buffer)
    client, names = found(buffer)
    client.delete_run(names["level 0"])
    buffer.metrics(level, {"loss": 1.0}, 0)
    said = sync(capsys, buffer)
    assert "MLflow refused 1 record: metrics: " in said
    assert "MLflow: 0 records delivered" in said


def test_a_run_to_adopt_that_is_gone_makes_no_second_run(buffer, tmp_path, capsys):
    other = Buffer(tmp_path / "other")
    runs(other)
    sync(capsys, other)
    clear(other)
    parent, level = runs(buffer, "level 0")
    buffer.adopt(parent, tmp_path / "other")
    buffer.metrics(level, {"loss": 1.0}, 0)
    assert "MLflow refused 1 record: adopt: " in sync(capsys, buffer)
    buffer.metrics(level, {"loss": 1.0}, 1)
    assert "refused" not in sync(capsys, buffer)
    client, names = found(buffer)
    assert set(names) == {"one", "level 0"}
    assert [point.step for point in client.get_metric_history(names["level 0"], "loss")] == [0, 1]


def test_a_database_that_was_cleared_gets_everything_once_more(buffer, capsys):
    _, level = runs(buffer, "level 0")
    buffer.metrics(level, {"loss": 1.0}, 0)
    sync(capsys, buffer)
    clear(buffer)
    buffer.metrics(level, {"loss": 1.0}, 1)
    assert "MLflow: 6 records delivered" in sync(capsys, buffer)
    client, names = found(buffer)
    assert [point.step for point in client.get_metric_history(names["level 0"], "loss")] == [0, 1]


def test_a_run_below_the_experiment_that_is_gone_begins_nothing_anew(fake, buffer, tmp_path):
    _, *levels = runs(buffer, "level 0", "level 1")
    delivery = Delivery(tmp_path / "one", tmp_path)
    while delivery.deliver():
        pass
    fake.gone = {"2"}
    for run in levels:
        buffer.metrics(run, {"loss": 1.0}, 0)
    while delivery.deliver():
        pass
    assert {run: len(points) for run, points in fake.points.items()} == {"1": 0, "2": 0, "3": 1}
    assert len(delivery.refused) == 1


def test_everything_is_sent_anew_once_for_each_command(fake, buffer, tmp_path):
    (parent,) = runs(buffer)
    buffer.metrics(parent, {"loss": 1.0}, 0)
    fake.gone = {"1", "2", "3"}
    delivery = Delivery(tmp_path / "one", tmp_path)
    for _ in range(3):  # a run, that it is gone, a new one
        assert delivery.deliver()
    with pytest.raises(MlflowException, match="it is gone"):
        delivery.deliver()
    assert set(fake.points) == {"1", "2"}
    assert fake.asked == 2  # the experiment may be gone too


def test_points_whose_answer_got_lost_are_not_sent_twice(fake, buffer, tmp_path):
    parent, level = runs(buffer, "level 0")
    delivery = Delivery(tmp_path / "one", tmp_path)
    while delivery.deliver():
        pass
    for step in range(3):
        for run in (parent, level):
            buffer.metrics(run, {"loss": 1.0, "copy": 2.0}, step)
    fake.losing = True
    with pytest.raises(ConnectionError):
        delivery.deliver()
    while delivery.deliver():
        pass
    expected = [("loss", 0), ("copy", 0), ("loss", 1), ("copy", 1), ("loss", 2), ("copy", 2)]
    assert [[(point.key, point.step) for point in points] for points in fake.points.values()] == [expected] * 2
