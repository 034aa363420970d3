"""What is to be recorded, in a file of the experiment: one line of JSON for each run, metric, artefact and status."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from hiwm.disk import append_json, read_json_lines

BUFFER = "mlflow.jsonl"
OPEN = "RUNNING"
LONGEST_NAME = 250  # limit of MLflow


@dataclass
class BufferedRun:
    """A run as the buffer knows it.

    Args:
        name: of the run.
        parent: id of the run above it; None for the experiment's own.
        tags: its tags.
        status: its last status.
        steps: metric -> last step that was recorded.
    """

    name: str
    parent: str | None
    tags: dict[str, str]
    status: str = OPEN
    steps: dict[str, int] = field(default_factory=dict)


class Buffer:
    """Appends records to the file; remembers the runs in it. One process at a time may write it.

    Args:
        folder: of the experiment.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / BUFFER
        self.runs: dict[str, BufferedRun] = {}
        try:
            for record in read_json_lines(self.path):
                self._remember(record)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is damaged ({error!r}). Move it away; new runs begin without it") from error

    def run(
        self, experiment: str, name: str, parent: str | None, parameters: Mapping[str, str], tags: Mapping[str, str]
    ) -> str:
        """Begin a run; returns its id, which is not MLflow's."""
        run = uuid.uuid4().hex
        plain = {legal(key): str(value) for key, value in tags.items()}
        self._append(run, "run", experiment=experiment, name=name, parent=parent, tags=plain)
        if parameters:
            self._append(run, "parameters", values={legal(key): value for key, value in parameters.items()})
        return run

    def metrics(self, run: str, values: Mapping[str, float], step: int) -> None:
        self._append(run, "metrics", values={legal(key): float(value) for key, value in values.items()}, step=step)

    def artifact(self, run: str, path: Path) -> None:
        self._append(run, "artifact", path=os.path.relpath(path, self.path.parent))

    def model(self, run: str, path: Path, name: str, tags: Mapping[str, str]) -> None:
        self._append(run, "model", path=os.path.relpath(path, self.path.parent), name=model_name(name), tags=dict(tags))

    def dataset(self, run: str, name: str, digest: str, source: str, rows: int) -> None:
        self._append(run, "dataset", name=name, digest=digest, source=source, rows=rows)

    def adopt(self, run: str, folder: Path) -> None:
        self._append(run, "adopt", path=os.path.relpath(folder, self.path.parent))

    def status(self, run: str, status: str) -> None:
        self._append(run, "status", status=status)

    def close(self, status: str) -> None:
        """Give all runs that are open this status."""
        for run, known in list(self.runs.items()):
            if known.status == OPEN:
                self.status(run, status)

    def _append(self, run: str, kind: str, **values: Any) -> None:
        record = {"kind": kind, "run": run, "time": int(1000 * time.time()), **values}
        append_json(self.path, record)
        self._remember(record)

    def _remember(self, record: dict[str, Any]) -> None:
        if record["kind"] == "run":
            self.runs[record["run"]] = BufferedRun(record["name"], record["parent"], record["tags"])
        elif record["kind"] == "status":
            self.runs[record["run"]].status = record["status"]
        elif record["kind"] == "metrics":
            steps = self.runs[record["run"]].steps
            for key in record["values"]:
                steps[key] = max(record["step"], steps.get(key, 0))


def legal(name: str) -> str:
    """A name that MLflow takes for a metric, a parameter or a tag; one that it takes already stays as it is."""
    name = re.sub(r"\s*[^/\w.\- :]+\s*", "_", name)
    name = "/".join("_" if part in ("", ".", "..") else part for part in name.split("/"))
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 9]}-{sha256(name.encode()).hexdigest()[:8]}"
    return name


def model_name(name: str) -> str:
    """A name that MLflow's model registry takes."""
    return re.sub(r"[/:]", "-", legal(name))
