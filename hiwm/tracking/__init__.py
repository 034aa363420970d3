"""Experiment tracking with MLflow: one parent run per experiment, one child run per level and per evaluation."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hiwm.console import say, shout
from hiwm.files import LEVELS, root_of
from hiwm.locks import locked
from hiwm.tracking.buffer import BUFFER, OPEN, Buffer, legal
from hiwm.tracking.client import DATABASE
from hiwm.tracking.delivery import Delivery

SECONDS_AT_END = 10.0  # how long a command waits at its end for a server to take what is left
SECONDS_AT_END_LOCAL = 60.0  # and for a database on the disk


class Experiment(Protocol):
    """What a tracker must know of an experiment; `hiwm.config.Config` is one."""

    @property
    def name(self) -> str: ...

    @property
    def root(self) -> str | Path: ...

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

    def model(self, path: Path, name: str, tags: Mapping[str, str]) -> None:
        """Store a folder, and make it a version of the registered model of that name, unless one has these tags."""

    def dataset(self, name: str, digest: str, source: str, rows: int) -> None:
        """Log what the run trains on.

        Args:
            name: of the dataset.
            digest: its fingerprint.
            source: its path.
            rows: how many it has.
        """

    def adopt(self, folder: Path) -> None:
        """Put the run of another experiment's folder below this one."""

    def finish(self, status: str = "FINISHED") -> None:
        """End the run with a status of MLflow: FINISHED, FAILED or KILLED."""


class Tracker(Protocol):
    """Creates runs; a context, at whose end open runs end and what is left is delivered."""

    def __enter__(self) -> Tracker: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...

    def parent(self) -> Run:
        """The run of the experiment itself, shared by all its commands."""
        ...

    def child(self, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
        """A new run under the parent, or the one of the same name and tags that was interrupted."""
        ...

    def has_finished(self, name: str, tag: str, value: str) -> bool:
        """Whether a finished run of that name has the tag; True if nothing is recorded."""
        ...


def make_tracker(experiment: Experiment, commit: str = "") -> Tracker:
    """The tracker that `tracking` names, of an experiment that code of this commit runs. MLflow is imported only if it is used.

    Raises:
        ValueError: MLflow is not installed.
    """
    if experiment.tracking == "none":
        return NoTracker()
    try:
        return MLflowTracker(experiment, commit)
    except ImportError as error:
        raise ValueError(f"tracking is 'mlflow': {error}. Run `pip install mlflow` or set tracking=none") from error


class NoTracker:
    """Records nothing."""

    def __enter__(self) -> NoTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...

    def parent(self) -> Run:
        return NoRun()

    def child(self, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
        return NoRun()

    def has_finished(self, name: str, tag: str, value: str) -> bool:
        return True


class NoRun:
    """Records nothing."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None: ...

    def artifact(self, path: Path) -> None: ...

    def model(self, path: Path, name: str, tags: Mapping[str, str]) -> None: ...

    def dataset(self, name: str, digest: str, source: str, rows: int) -> None: ...

    def adopt(self, folder: Path) -> None: ...

    def finish(self, status: str = "FINISHED") -> None: ...


class MLflowTracker:
    """Records in a file of the experiment, from which a thread takes everything to MLflow.

    MLflow is the server that MLFLOW_TRACKING_URI names, else an SQLite database in the root of all results. Nothing here
    waits for it. Runs that a killed command left open go on where the same work goes on.
    """

    def __init__(self, experiment: Experiment, commit: str) -> None:
        self.experiment, self.folder, self.commit = experiment, experiment.folder, commit
        self.buffer = Buffer(self.folder)
        self.buffer.close("KILLED")  # what a killed command left open; what goes on is opened again
        self.delivery = Delivery(self.folder, Path(experiment.root))
        self.delivery.start()
        self.parent_id = self._parent()

    def __enter__(self) -> MLflowTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.buffer.close(status_after(kind))
        self.delivery.close(SECONDS_AT_END if self.delivery.remote else SECONDS_AT_END_LOCAL)
        _say_left(self.delivery, self.folder)

    def parent(self) -> Run:
        return BufferedMLflowRun(self.buffer, self.parent_id)

    def child(self, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
        for run, known in reversed(self.buffer.runs.items()):
            if (known.parent, known.name, known.tags) == (self.parent_id, name, tags) and known.status != "FINISHED":
                self.buffer.status(run, OPEN)
                return BufferedMLflowRun(self.buffer, run, dict(known.steps))
        run = self.buffer.run(self.experiment.name, name, self.parent_id, flatten(parameters), tags)
        return BufferedMLflowRun(self.buffer, run)

    def has_finished(self, name: str, tag: str, value: str) -> bool:
        return any(
            (known.name, known.tags.get(tag), known.status) == (name, value, "FINISHED")
            for known in self.buffer.runs.values()
        )

    def _parent(self) -> str:
        """The run of the experiment: the one that is there, open if it has not finished, or a new one."""
        for run, known in self.buffer.runs.items():
            if known.parent is None:
                if known.status != "FINISHED":
                    self.buffer.status(run, OPEN)
                return run
        name = os.path.relpath(self.folder, self.experiment.root)
        tags = {"hiwm.commit": self.commit}
        return self.buffer.run(self.experiment.name, name, None, flatten(self.experiment.as_dict()), tags)


class BufferedMLflowRun:
    """A run in the buffer.

    Args:
        buffer: where it is recorded.
        run: its id.
        steps: metric -> last step that an interrupted command recorded; its points are not recorded again.
    """

    def __init__(self, buffer: Buffer, run: str, steps: Mapping[str, int] | None = None) -> None:
        self.buffer, self.run, self.steps = buffer, run, steps or {}

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        if new := {key: value for key, value in values.items() if step > self.steps.get(legal(key), -1)}:
            self.buffer.metrics(self.run, new, step)

    def artifact(self, path: Path) -> None:
        self.buffer.artifact(self.run, path)

    def model(self, path: Path, name: str, tags: Mapping[str, str]) -> None:
        self.buffer.model(self.run, path, name, tags)

    def dataset(self, name: str, digest: str, source: str, rows: int) -> None:
        self.buffer.dataset(self.run, name, digest, source, rows)

    def adopt(self, folder: Path) -> None:
        self.buffer.adopt(self.run, folder)

    def finish(self, status: str = "FINISHED") -> None:
        self.buffer.status(self.run, status)


def status_after(kind: type[BaseException] | None) -> str:
    """MLflow's status of a run that ends with an exception of this kind, or without one."""
    if kind is None:
        return "FINISHED"
    return "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"


def sync(folder: Path) -> int:
    """Deliver what MLflow has not got yet; returns the number of records that are left.

    Runs that a killed command left open end as KILLED. Waits while another command uses the folder.

    Raises:
        ValueError: nothing was recorded in the folder.
    """
    if not (folder / BUFFER).exists():
        raise ValueError(f"{folder} has no {BUFFER}; expected the folder of an experiment with tracking=mlflow")
    with locked(folder):  # a command that runs delivers by itself
        Buffer(folder).close("KILLED")
        delivery = Delivery(folder, root_of(folder, [DATABASE, LEVELS]))
        before = delivery.left()
        delivery.closing.set()
        delivery.start()
        while delivery.is_alive():  # a join without a limit would not notice Ctrl-C
            delivery.join(1)
    left = delivery.left()
    if delivery.restarted:  # everything once more
        before = len((folder / BUFFER).read_bytes().splitlines())
    say(f"MLflow: {_records(before - left - len(delivery.refused))} delivered to {delivery.describe()}")
    _say_left(delivery, folder)
    return left


def show(root: Path) -> int:
    """Serve MLflow's interface on the database of all runs until Ctrl-C; returns its exit status.

    Raises:
        ValueError: there is no database.
    """
    if remote := os.environ.get("MLFLOW_TRACKING_URI"):
        say(f"the runs are at {remote.rpartition('@')[2]}, which MLFLOW_TRACKING_URI names")
        return 0
    path = (root / DATABASE).resolve()
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; expected root=<the folder of the results>, after a command with tracking=mlflow"
        )
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", f"sqlite:///{path}"]
    return subprocess.run(command, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}, check=False).returncode


def _say_left(delivery: Delivery, folder: Path) -> None:
    """One line about what is not delivered, and one about what MLflow refused."""
    if refused := delivery.refused:
        first = "; the first" if len(refused) > 1 else ""
        shout(f"MLflow refused {_records(len(refused))}{first}: {delivery.line(refused[0])}")
    if left := delivery.left():
        cause = f" ({delivery.line(delivery.error)})" if delivery.error else ""
        shout(
            f"MLflow: {_records(left)} {'is' if left == 1 else 'are'} not yet delivered to {delivery.describe()}{cause}. "
            f"`hiwm mlflow sync {folder}` delivers {'it' if left == 1 else 'them'} later"
        )


def _records(number: int) -> str:
    return "1 record" if number == 1 else f"{number:,} records"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings with dotted keys: {"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
