"""Experiment tracking with MLflow: one parent run per experiment, one child run per level and per evaluation."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

PARENT_FILE = "mlflow_run.txt"  # holds the id of the parent run, to which later commands add their runs
DATABASE = "mlflow.db"
MAX_PARAMETER_LENGTH = 6000  # limit of MLflow
MAX_PARAMETERS = 100  # per call, limit of MLflow


class Experiment(Protocol):
    """What a tracker must know of an experiment; `hiwm.config.Config` is one."""

    @property
    def name(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def tracking(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    def as_dict(self) -> dict[str, Any]: ...


class Run(Protocol):
    """One tracked run."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log one point of each curve."""

    def artifact(self, path: Path) -> None:
        """Store a file, or a folder under its own name."""

    def finish(self, status: str = "FINISHED") -> None:
        """End the run with a status of MLflow: FINISHED, FAILED or KILLED."""


class Tracker(Protocol):
    """Creates runs."""

    def parent(self) -> Run:
        """The run of the experiment itself, shared by all its commands."""
        ...

    def child(self, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
        """A new run under the parent."""
        ...


def make_tracker(experiment: Experiment) -> Tracker:
    """The tracker that `tracking` names. MLflow is imported only if it is used.

    Raises:
        ValueError: MLflow is not installed.
    """
    if experiment.tracking == "none":
        return NoTracker()
    try:
        return MLflowTracker(experiment)
    except ImportError as error:
        raise ValueError(f"tracking is 'mlflow': {error}. Run `pip install mlflow` or set tracking=none") from error


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
    """Records to the server that MLFLOW_TRACKING_URI names, else to an SQLite database in the experiment's folder."""

    def __init__(self, experiment: Experiment) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        # MLflow logs the creation of its tables, which is of no interest to the user
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)

        folder = experiment.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        remote = os.environ.get("MLFLOW_TRACKING_URI")
        if not remote and not (folder / DATABASE).exists():
            _make_database(folder / DATABASE)
        self.client = MlflowClient(remote or f"sqlite:///{folder / DATABASE}")
        found = self.client.get_experiment_by_name(experiment.name)
        artifacts = None if remote else (folder / "mlartifacts").as_uri()
        self.experiment_id = found.experiment_id if found else self.client.create_experiment(experiment.name, artifacts)
        self.parent_id = self._saved_parent(folder / PARENT_FILE) or self._new_parent(experiment, folder / PARENT_FILE)

    def parent(self) -> Run:
        return MLflowRun(self.client, self.parent_id)

    def child(self, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
        all_tags = {**tags, "mlflow.parentRunId": self.parent_id, "mlflow.runName": name}
        run_id = self.client.create_run(self.experiment_id, tags=all_tags).info.run_id
        self._log_parameters(run_id, flatten(parameters))
        return MLflowRun(self.client, run_id)

    def _saved_parent(self, file: Path) -> str | None:
        """Id of the parent run in the file; None if the server or the database does not know it any more."""
        from mlflow.exceptions import MlflowException

        if not file.exists():
            return None
        try:
            return self.client.get_run(file.read_text()).info.run_id
        except MlflowException:
            return None

    def _new_parent(self, experiment: Experiment, file: Path) -> str:
        tags = {"mlflow.runName": f"{experiment.name} seed {experiment.seed}"}
        run_id = self.client.create_run(self.experiment_id, tags=tags).info.run_id
        self._log_parameters(run_id, flatten(experiment.as_dict()))
        file.write_text(run_id)
        return run_id

    def _log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, value[:MAX_PARAMETER_LENGTH]) for key, value in parameters.items()]
        for start in range(0, len(entries), MAX_PARAMETERS):
            self.client.log_batch(run_id, params=entries[start : start + MAX_PARAMETERS])


def _make_database(path: Path) -> None:
    """Create the tables of MLflow under a temporary name, because a half-made database can be neither used nor repaired."""
    from mlflow import MlflowClient

    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{temporary}").search_experiments()
    temporary.replace(path)


class MLflowRun:
    """One MLflow run."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.client, self.run_id = client, run_id

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(
            self.run_id, metrics=[Metric(key, float(value), now, step) for key, value in values.items()]
        )

    def artifact(self, path: Path) -> None:
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), path.name)
        else:
            self.client.log_artifact(self.run_id, str(path))

    def finish(self, status: str = "FINISHED") -> None:
        self.client.set_terminated(self.run_id, status)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings with dotted keys: {"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
