"""MLflow behind one thin object: a parent run an experiment, a child run a level and one for the evaluation."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hiwm.config import Config, ConfigError

PARENT_FILE = "mlflow_run.txt"  # which parent run later verbs add their runs to
DATABASE = "mlflow.db"
LONGEST_PARAMETER = 6000  # MLflow's limit


class Run(Protocol):
    """One run that is being recorded."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Points of curves."""

    def artifact(self, path: Path) -> None:
        """Keep a file, or a folder under its own name."""

    def finish(self, status: str = "FINISHED") -> None:
        """Nothing more will come; MLflow's status: FINISHED, FAILED or KILLED."""


class Tracker(Protocol):
    """Where runs are recorded."""

    def parent(self) -> Run:
        """The experiment's own run; the same one for all its verbs."""
        ...

    def child(self, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
        """A run under it."""
        ...


def make_tracker(config: Config) -> Tracker:
    """As `tracking` says; MLflow is imported only where it is used."""
    if config.tracking == "none":
        return NoTracker()
    try:
        return MLflowTracker(config)
    except ImportError as error:
        raise ConfigError(f"tracking is 'mlflow': {error}; pip install mlflow, or tracking=none") from error


class NoTracker:
    """Records nothing."""

    def parent(self) -> Run:
        return NoRun()

    def child(self, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
        return NoRun()


class NoRun:
    """Records nothing."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None: ...

    def artifact(self, path: Path) -> None: ...

    def finish(self, status: str = "FINISHED") -> None: ...


class MLflowTracker:
    """SQLite under the experiment's folder, or the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, config: Config) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        # it says that it makes its tables; nobody need act on that
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)

        folder = config.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        remote = os.environ.get("MLFLOW_TRACKING_URI")
        if not remote and not (folder / DATABASE).exists():
            _make_database(folder / DATABASE)
        self.client = MlflowClient(remote or f"sqlite:///{folder / DATABASE}")
        experiment = self.client.get_experiment_by_name(config.name)
        self.experiment = (
            experiment.experiment_id
            if experiment
            else self.client.create_experiment(config.name, None if remote else (folder / "mlartifacts").as_uri())
        )
        self.make_parameter = Param
        remembered = folder / PARENT_FILE
        if remembered.exists():
            self.parent_id = remembered.read_text()
            try:
                self.client.get_run(self.parent_id)
                return
            except MlflowException:  # another server, or a database that was removed: begin a new parent
                pass
        run = self.client.create_run(self.experiment, tags={"mlflow.runName": f"{config.name} seed {config.seed}"})
        self.parent_id = run.info.run_id
        self._parameters(self.parent_id, flatten(config.as_dict()))
        remembered.write_text(self.parent_id)

    def parent(self) -> Run:
        return MLflowRun(self.client, self.parent_id)

    def child(self, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
        described = {**tags, "mlflow.parentRunId": self.parent_id, "mlflow.runName": name}
        run_id = self.client.create_run(self.experiment, tags=described).info.run_id
        self._parameters(run_id, flatten(parameters))
        return MLflowRun(self.client, run_id)

    def _parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        entries = [self.make_parameter(key, value[:LONGEST_PARAMETER]) for key, value in parameters.items()]
        for start in range(0, len(entries), 100):  # MLflow's limit a call
            self.client.log_batch(run_id, params=entries[start : start + 100])


def _make_database(path: Path) -> None:
    """MLflow's tables, whole or not at all: a database whose making was interrupted can neither be used nor be mended."""
    from mlflow import MlflowClient

    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{temporary}").search_experiments()
    temporary.replace(path)


class MLflowRun:
    """One MLflow run."""

    def __init__(self, client: Any, run_id: str) -> None:
        from mlflow.entities import Metric

        self.client, self.run_id, self.make_metric = client, run_id, Metric

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        import time

        now = int(1000 * time.time())
        self.client.log_batch(
            self.run_id, metrics=[self.make_metric(k, float(v), now, step) for k, v in values.items()]
        )

    def artifact(self, path: Path) -> None:
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), path.name)
        else:
            self.client.log_artifact(self.run_id, str(path))

    def finish(self, status: str = "FINISHED") -> None:
        self.client.set_terminated(self.run_id, status)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
