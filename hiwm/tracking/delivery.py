"""Takes the records of a buffer to an MLflow server or database, in the background, each exactly once."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from hiwm.disk import read_json_lines, replacing
from hiwm.files import LEVELS
from hiwm.locks import locked
from hiwm.tracking.buffer import BUFFER
from hiwm.tracking.client import DATABASE, connect, dataset_input

DELIVERED = "mlflow.json"  # where -> what has been delivered there
RUN_TAG = "hiwm.run"  # holds the id that a run has in the buffer
METRICS_AT_ONCE, PARAMETERS_AT_ONCE = 1000, 100  # limits of MLflow
LONGEST_PARAMETER, LONGEST_TAG = 6000, 5000
SECONDS_BETWEEN_BATCHES = 2.0
LONGEST_PAUSE = 10.0  # seconds, while the server does not answer
REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")  # MLflow will never take such a record
GONE = "RESOURCE_DOES_NOT_EXIST"

_threads: dict[Path, threading.Thread] = {}  # the last delivery of each folder in this process


class Delivery(threading.Thread):
    """Delivers what is in the buffer, and what is added, until it is closed.

    What has arrived is noted after every request. A request whose answer got lost is checked against the server before
    it is repeated. Artefacts come last, so that a slow upload delays no metric.

    Args:
        folder: of the results; holds the buffer.
        root: of all results; holds the database, and the folder of the levels.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.root = folder.resolve(), root.resolve()
        self.remote = os.environ.get("MLFLOW_TRACKING_URI")
        self.client = connect(self.root, self.remote)
        self.where = "root" if not self.remote else sha256(self.remote.encode()).hexdigest()[:16]
        self.all_states = _read(self.folder / DELIVERED)
        self.state: dict[str, Any] = {"offset": 0, "sending": 0, "runs": {}, "artifacts": []}
        self.state |= self.all_states.get(self.where, {})
        self.experiments: dict[str, str] = {}
        self.restarted = False
        self.error: Exception | None = None
        self.refused: list[str] = []
        self.closing, self.wake = threading.Event(), threading.Event()
        self.previous, _threads[self.folder] = _threads.get(self.folder), self

    def run(self) -> None:
        if self.previous is not None:
            self.previous.join()
            self.previous = None
            self.all_states = _read(self.folder / DELIVERED)
            self.state |= self.all_states.get(self.where, {})
        pause = 1.0
        while True:
            last = self.closing.is_set()
            try:
                while self.deliver():
                    pause = 1.0
                self.error = None
                if last:
                    return
                self.wake.wait(SECONDS_BETWEEN_BATCHES)
            except Exception as error:  # whatever a server, a proxy or a disk may answer: try again later
                self.error = error
                if last:
                    return
                self.wake.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            if not self.closing.is_set():
                self.wake.clear()

    def close(self, seconds: float) -> None:
        """Deliver what is left, for some seconds at most, and not beyond the first failure."""
        self.closing.set()
        self.wake.set()
        self.join(seconds)

    def left(self) -> int:
        """Number of records that are not delivered."""
        with open(self.folder / BUFFER, "rb") as file:
            file.seek(self.state["offset"])
            return sum(1 for _ in file) + len(self.state["artifacts"])

    def deliver(self) -> bool:
        """Send the next records, or else the next artefact; False if nothing is left."""
        from mlflow.exceptions import MlflowException

        records, end = self._next()
        if not records and end > self.state["offset"]:  # only spoiled lines
            self._note(offset=end)
        if not records and not self.state["artifacts"]:
            return False
        refused: list[str] = []  # counted once the whole batch is through, because it may be repeated
        try:
            if records:
                uncertain = self.state["sending"] > self.state["offset"]
                self._note(sending=end)
                for run in dict.fromkeys(record["run"] for record in records):
                    of_run = [record for record in records if record["run"] == run]
                    with self._refusable(of_run, refused):  # the records of other runs go on
                        self._send(of_run, uncertain)
            else:
                with self._refusable([{"kind": "artifact"}], refused):
                    self._send_next_artifact()
        except MlflowException as error:
            if error.error_code != GONE or self.restarted:
                raise
            self.restarted = True  # because the experiment's own run is gone
            self.experiments = {}
            self._note(offset=0, sending=0, runs={}, artifacts=[])
            return True
        self.refused += refused
        if records:
            self._note(offset=end)
        else:
            self._note(artifacts=self.state["artifacts"][1:])
        return True

    @contextmanager
    def _refusable(self, records: list[dict[str, Any]], refused: list[str]) -> Iterator[None]:
        """Go on if MLflow will never take these records, and append a line for each of them to `refused`."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            # another run that is gone, such as one to adopt, does not come back
            never = error.error_code in REFUSED or (error.error_code == GONE and not self._is_lost())
            if not never or records[0]["kind"] == "run":
                raise
            refused += [f"{records[0]['kind']}: {error}"] * len(records)

    def _is_lost(self) -> bool:
        """Whether MLflow no longer has the experiment's own run, which is the first of the folder."""
        from mlflow.exceptions import MlflowException

        try:
            for run in list(self.state["runs"].values())[:1]:
                self.client.get_run(run)
        except MlflowException as error:
            if error.error_code != GONE:
                raise
            return True
        return False

    def _next(self) -> tuple[list[dict[str, Any]], int]:
        """The next record, or several with metrics, and where they end in the buffer."""
        records: list[dict[str, Any]] = []
        number, end = 0, self.state["offset"]
        if not (self.folder / BUFFER).exists():
            return records, end
        with open(self.folder / BUFFER, "rb") as file:
            file.seek(end)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                except ValueError:  # spoiled by a crash
                    end += len(line)
                    continue
                number += len(record.get("values", ()))
                if records and (record["kind"] != "metrics" or number > METRICS_AT_ONCE):
                    break
                records.append(record)
                end += len(line)
                if record["kind"] != "metrics":
                    break
        return records, end

    def _send(self, records: list[dict[str, Any]], uncertain: bool) -> None:
        """Send one record, or several with metrics of one run."""
        first = records[0]
        if first["kind"] == "run":
            self._note(runs={**self.state["runs"], first["run"]: self._create(first, uncertain)})
            return
        run = self.state["runs"][first["run"]]
        if first["kind"] == "parameters":
            self._send_parameters(run, first["values"])
        elif first["kind"] in ("artifact", "model"):
            wanted = [first["run"], first["path"]]
            wanted += [{"name": first["name"], "tags": first["tags"]}] if first["kind"] == "model" else []
            self._note(artifacts=[x for x in self.state["artifacts"] if x != wanted] + [wanted])
        elif first["kind"] == "adopt":
            self.client.set_tag(self._run_of(self.folder / first["path"]), "mlflow.parentRunId", run)
        elif first["kind"] == "dataset":
            self.client.log_inputs(run, [dataset_input(first)])  # once for each digest
        elif first["kind"] == "status" and first["status"] == "RUNNING":
            self.client.update_run(run, "RUNNING")
        elif first["kind"] == "status":
            self.client.set_terminated(run, first["status"], first["time"])
        else:
            self._send_metrics(run, records, uncertain)

    def _create(self, record: Mapping[str, Any], uncertain: bool) -> str:
        """Id that the server gives to the run."""
        experiment = self._experiment(record["experiment"])
        if uncertain and (found := self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{record['run']}'")):
            return found[0].info.run_id
        tags = {key: value[:LONGEST_TAG] for key, value in record["tags"].items()}
        tags |= {RUN_TAG: record["run"], "mlflow.runName": record["name"]}
        if record["parent"] is not None:
            tags["mlflow.parentRunId"] = self.state["runs"][record["parent"]]
        return self.client.create_run(experiment, record["time"], tags).info.run_id

    def _experiment(self, name: str) -> str:
        if name not in self.experiments:
            found = self.client.get_experiment_by_name(name)
            artifacts = None if self.remote else (self.root / "mlartifacts").as_uri()
            with (
                nullcontext() if self.remote else locked(self.root / DATABASE)
            ):  # other commands may be about to make it
                found = found or self.client.get_experiment_by_name(name)
                made = found.experiment_id if found else self.client.create_experiment(name, artifacts)
            self.experiments[name] = made
        return self.experiments[name]

    def _send_parameters(self, run: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        for some in _chunks(
            [Param(key, value[:LONGEST_PARAMETER]) for key, value in values.items()], PARAMETERS_AT_ONCE
        ):
            self.client.log_batch(run, params=some)

    def _send_metrics(self, run: str, records: list[dict[str, Any]], uncertain: bool) -> None:
        from mlflow.entities import Metric

        there: set[tuple[str, int, int]] = set()
        if uncertain:  # stores in files keep a point twice
            keys = {key for record in records for key in record["values"]}
            there = {(m.key, m.step, m.timestamp) for key in keys for m in self.client.get_metric_history(run, key)}
        points = [
            Metric(key, value, record["time"], record["step"])
            for record in records
            for key, value in record["values"].items()
            if (key, record["step"], record["time"]) not in there
        ]
        for some in _chunks(points, METRICS_AT_ONCE):
            self.client.log_batch(run, metrics=some)

    def _send_next_artifact(self) -> None:
        run, path, *model = self.state["artifacts"][0]
        tags = model[0]["tags"] if model else {}
        place = Path(path).name + ("/" + sha256(json.dumps(tags).encode()).hexdigest()[:8]) * bool(tags)
        if self._send_artifact(self.state["runs"][run], self.folder / path, place) and model:
            self._register(self.state["runs"][run], place, **model[0])

    def _send_artifact(self, run: str, path: Path, place: str) -> bool:
        """Send a file, or a folder to a place of its own; returns whether it was there to be sent."""
        inside = [each.resolve() for each in (path, *path.rglob("*"))]
        own = (self.folder, self.root / LEVELS)  # a folder from elsewhere must not send other files of this machine
        if any(not any(each.is_relative_to(folder) for folder in own) for each in inside):
            self.refused.append(f"artifact: {path} leads out of {self.folder}")
            return False
        if path.is_dir():
            self.client.log_artifacts(run, str(path), place)
        elif path.exists():  # a later command may have removed it
            self.client.log_artifact(run, str(path))
        return path.exists()

    def _run_of(self, folder: Path) -> str:
        """Id on the server of the run of another experiment's folder; it must be there already."""
        delivered = _read(folder / DELIVERED).get(self.where, {}).get("runs", {})
        records = read_json_lines(folder / BUFFER) if (folder / BUFFER).exists() else ()
        runs = [delivered.get(each["run"]) for each in records if each["kind"] == "run" and each["parent"] is None]
        if not runs or runs[0] is None:
            raise ValueError(f"{folder} is not delivered yet; run `hiwm mlflow sync {folder}` first")
        return runs[0]

    def _register(self, run: str, artifact: str, name: str, tags: Mapping[str, str]) -> None:
        """Make the artefact a version of a registered model, unless it is one or the server has no registry."""
        from mlflow.exceptions import MlflowException

        try:
            there = self.client.search_model_versions(f"run_id = '{run}'")
            if any(version.name == name and tags.items() <= version.tags.items() for version in there):
                return
            with _without("RESOURCE_ALREADY_EXISTS"):
                self.client.create_registered_model(name)
            source = f"{self.client.get_run(run).info.artifact_uri}/{artifact}"
            self.client.create_model_version(name, source, run, tags=dict(tags), await_creation_for=None)
        except MlflowException as error:
            if error.error_code not in (*REFUSED, "FEATURE_DISABLED"):
                raise
            self.refused.append(f"model: {error}")

    def _note(self, **changes: Any) -> None:
        """Remember what has been delivered."""
        self.state.update(changes)
        self.all_states[self.where] = self.state
        with replacing(self.folder / DELIVERED) as temporary:
            temporary.write_text(json.dumps(self.all_states))

    def line(self, error: object) -> str:
        """An error in one line, without the password of the server."""
        text = " ".join(str(error).split())
        return (text.replace(self.remote, self.describe()) if self.remote else text)[:200]

    def describe(self) -> str:
        """Where the records go, without the password."""
        if not self.remote:
            return f"{self.root / DATABASE}"
        parts = urlsplit(self.remote)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextmanager
def _without(code: str) -> Iterator[None]:
    """Go on after an error of MLflow with this code."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != code:
            raise


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Remove it to deliver everything once more") from error


def _chunks(values: Iterable[Any], size: int) -> Iterable[list[Any]]:
    values = iter(values)
    while some := list(islice(values, size)):
        yield some
