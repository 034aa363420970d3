"""Tracking with a real MLflow server that is down, slow, stopped and started again."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mlflow import MlflowClient

from hiwm.cli import main
from hiwm.tracking import make_tracker
from hiwm.tracking.buffer import legal

# connections to a server that was killed are closed late
pytestmark = pytest.mark.filterwarnings("ignore:unclosed", "ignore::pytest.PytestUnraisableExceptionWarning")


@dataclass
class Experiment:
    root: Path
    name: str = "served"
    tracking: str = "mlflow"

    @property
    def folder(self) -> Path:
        return self.root / self.name

    def as_dict(self) -> dict[str, Any]:
        return {"training": {"steps": 3}, "long, (name)": "x" * 7000}


class Server:
    """An MLflow server on a free port, which keeps its database when it is stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port"]
        command += [str(self.port), "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        for _ in range(1200):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise AssertionError("the server does not start")

    def stop(self) -> None:
        os.killpg(self.process.pid, 9)
        self.process.wait()


class Proxy(BaseHTTPRequestHandler):
    """In front of a server: delays requests, or loses the answers of the first ones to every path."""

    target: ClassVar[int]
    delay: ClassVar[float] = 0.0
    losing: ClassVar[bool] = False
    lost: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        time.sleep(self.delay)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection("127.0.0.1", self.target)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        if self.losing and self.path not in self.lost:
            self.lost.add(self.path)
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: Any) -> None: ...


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def proxy(server, monkeypatch):
    monkeypatch.setattr(Proxy, "target", server.port, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{served.server_port}")
        yield Proxy
        served.shutdown()


def points(uri: str, experiment: str, name: str, metric: str) -> list[int]:
    """Steps at which the only run of that name has the metric."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([found.experiment_id], f"tags.`mlflow.runName` = '{name}'")
    return [point.step for point in client.get_metric_history(run.info.run_id, metric)]


def statuses(uri: str, experiment: str) -> dict[str, str]:
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {run.info.run_name: run.info.status for run in found}


def test_nothing_waits_for_a_server_that_comes_and_goes(server, tmp_path, monkeypatch, capsys):
    server.stop()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    experiment = Experiment(tmp_path)
    spent = 0.0
    with make_tracker(experiment) as tracker:
        run = tracker.child("level 0", {"width": 3}, {"hiwm.level": "0"})
        for step in range(400):
            if step == 100:
                server.start()
            if step == 200:  # something has arrived
                while tracker.delivery.left() > 100:  # type: ignore[attr-defined]
                    time.sleep(0.1)
                server.stop()
            before = time.monotonic()
            run.metrics({"loss": 1 / (step + 1), "hierarchical, attempt 2/success": 0.5}, step)
            spent += time.monotonic() - before
        ended = time.monotonic()
    assert spent < 4  # a hundredth of a second a step, on a busy machine
    assert time.monotonic() - ended < 20
    said = capsys.readouterr().out
    assert f"records are not yet delivered to {server.uri}" in said
    assert f"`hiwm mlflow sync {experiment.folder}`" in said
    assert main(["mlflow", "sync", str(experiment.folder)]) == 1  # the server is still down
    server.start()
    for _ in range(2):  # the second time nothing is left
        assert main(["mlflow", "sync", str(experiment.folder)]) == 0
        assert points(server.uri, "served", "level 0", "loss") == list(range(400))
        assert points(server.uri, "served", "level 0", "hierarchical_attempt 2/success") == list(range(400))
        assert statuses(server.uri, "served") == {"served": "FINISHED", "level 0": "FINISHED"}


def test_a_slow_server_costs_no_step(server, proxy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(proxy, "delay", 2.0)
    experiment = Experiment(tmp_path, "slow")
    with make_tracker(experiment) as tracker:
        run = tracker.child("level 0", {}, {})
        before = time.monotonic()
        for step in range(1500):
            run.metrics({"loss": 1.0}, step)
        assert time.monotonic() - before < 15  # a hundredth of a second a step, on a busy machine
        before = time.monotonic()
    assert time.monotonic() - before < 20
    monkeypatch.setattr(proxy, "delay", 0.0)
    assert main(["mlflow", "sync", str(experiment.folder)]) == 0
    assert points(server.uri, "slow", "level 0", "loss") == list(range(1500))
    assert "secret" not in capsys.readouterr().out


def test_answers_that_get_lost_double_nothing(server, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(proxy, "losing", True)
    monkeypatch.setattr(proxy, "lost", set())
    folder = Experiment(tmp_path, "lost").folder
    folder.mkdir()
    (folder / "results.txt").write_text("all of it")
    (folder / "model").mkdir()
    (folder / "model" / "hierarchy.yaml").write_text("levels: []")
    with make_tracker(Experiment(tmp_path, "lost")) as tracker:
        run = tracker.child("level 0", {}, {})
        for step in range(5):
            run.metrics({"loss": 1.0}, step)
        run.artifact(folder / "results.txt")
        run.dataset("maze", "abc", "/data/maze.h5", 10)
        run.model(folder / "model", "lost: it", {"hiwm.levels": "abc"})
    for _ in range(40):
        if main(["mlflow", "sync", str(folder)]) == 0:
            break
    assert {"/api/2.0/mlflow/runs/create", "/api/2.0/mlflow/runs/log-batch"} <= proxy.lost
    assert points(server.uri, "lost", "level 0", "loss") == list(range(5))
    client = MlflowClient(server.uri)
    runs = client.search_runs([client.get_experiment_by_name("lost").experiment_id])
    assert len(runs) == 2
    (child,) = (run for run in runs if run.info.run_name == "level 0")
    assert [item.path for item in client.list_artifacts(child.info.run_id)] == ["model", "results.txt"]
    assert [given.dataset.digest for given in child.inputs.dataset_inputs] == ["abc"]
    (version,) = client.search_model_versions("name = 'lost- it'")
    assert version.run_id == child.info.run_id


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_tracking_server import Experiment
from hiwm.tracking import make_tracker
with make_tracker(Experiment(Path({folder!r}), "killed")) as tracker:
    run = tracker.child("level 0", {{}}, {{"hiwm.fingerprint": "ab"}})
    for step in range(10):
        run.metrics({{"loss": 1.0}}, step)
    os.kill(os.getpid(), 9)
"""


def test_a_killed_command_leaves_no_run_open(tmp_path, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert main(["mlflow", "sync", str(tmp_path / "killed")]) == 0
    assert statuses(server.uri, "killed") == {"killed": "KILLED", "level 0": "KILLED"}
    with make_tracker(Experiment(tmp_path, "killed")) as tracker:  # goes on in the same runs
        run = tracker.child("level 0", {}, {"hiwm.fingerprint": "ab"})
        for step in range(5, 20):  # from the checkpoint
            run.metrics({"loss": 1.0}, step)
        run.finish()
    assert statuses(server.uri, "killed") == {"killed": "FINISHED", "level 0": "FINISHED"}
    assert points(server.uri, "killed", "level 0", "loss") == list(range(20))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_what_ends_a_command_ends_its_runs(tmp_path, kind):
    tracker = make_tracker(Experiment(tmp_path, "ended"))
    with pytest.raises(kind), tracker:  # noqa: PT012
        tracker.child("level 0", {}, {})
        raise kind
    expected = {KeyboardInterrupt: "KILLED", RuntimeError: "FAILED"}[kind]
    assert set(statuses(f"sqlite:///{tmp_path / 'mlflow.db'}", "ended").values()) == {expected}


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("validation/loss_prediction", "validation/loss_prediction"),
        ("hierarchical, attempt 2/success", "hierarchical_attempt 2/success"),
        ("lr(x)", "lr_x_"),
        ("a//b", "a/_/b"),
        ("/absolute", "_/absolute"),
        ("../up", "_/up"),
    ],
)
def test_names_that_mlflow_takes(name, taken):
    assert legal(name) == taken


def test_long_names_stay_different():
    one, two = legal("x" * 300 + "1"), legal("x" * 300 + "2")
    assert one != two
    assert len(one) == len(two) == 250


def test_a_folder_from_elsewhere_sends_no_other_files(tmp_path):
    (tmp_path / "secret").write_text("s")
    folder = tmp_path / "runs" / "elsewhere"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to("../../secret")
    (folder / "good").write_text("g")
    with make_tracker(Experiment(tmp_path / "runs", "elsewhere")) as tracker:
        for path in (tmp_path / "secret", folder / "link", folder / "good"):
            tracker.parent().artifact(path)
    sent = [path.name for path in (tmp_path / "runs" / "mlartifacts").rglob("*") if path.is_file()]
    assert sent == ["good"]


def test_damaged_files_are_named(tmp_path, capsys):
    folder = tmp_path / "one"  # the database is created next to it
    folder.mkdir()
    assert main(["mlflow", "sync", str(folder)]) == 2
    assert f"{folder} has no mlflow.jsonl" in capsys.readouterr().err
    (folder / "mlflow.jsonl").write_text('{"kind": "metrics"}\n')
    assert main(["mlflow", "sync", str(folder)]) == 2
    assert "mlflow.jsonl is damaged" in capsys.readouterr().err
    (folder / "mlflow.jsonl").write_text("")
    (folder / "mlflow.json").write_text("{")
    assert main(["mlflow", "sync", str(folder)]) == 2
    assert "mlflow.json is damaged" in capsys.readouterr().err
    assert main(["mlflow", "deliver"]) == 2
    assert "or `hiwm mlflow sync <folder>`" in capsys.readouterr().err
