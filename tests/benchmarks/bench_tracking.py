"""Training with MLflow, whose server is there, is down, is stopped in the middle, or answers late, against none.

Seconds depend on what else the machine does, and the server runs on it too; CPU seconds of the training itself do so less.
"""

import json
import os
import subprocess
import sys
import threading
import time
import warnings
from http.server import ThreadingHTTPServer
from pathlib import Path

import tiny
from mlflow import MlflowClient
from test_tracking_server import Proxy, Server, free_port

STEPS, REPEATS = 600, 3
MORE = [f"training.steps={STEPS}", "training.evaluate_every=200"]
SYNC = [sys.executable, "-m", "hiwm", "mlflow", "sync"]


def environment(uri: str | None) -> dict[str, str]:
    found = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tiny.TESTS), str(tiny.ROOT)])}
    return found if uri is None else {**found, "MLFLOW_TRACKING_URI": uri}


def train(root: Path, tracking: str, uri: str | None, dataset: Path) -> tuple[float, subprocess.Popen]:
    more = [*MORE, f"name={root.name}", f"tracking={tracking}", f"dataset.path={dataset}"]
    overrides = tiny.overrides(root, *more)  # a root of its own, so that no level is trained already
    command = [sys.executable, "-m", "hiwm", "train", *overrides]
    return time.perf_counter(), subprocess.Popen(command, env=environment(uri), stdout=subprocess.DEVNULL)


def missing(name: str, uri: str) -> int:
    """Steps of training curves in the level's own history that MLflow has not got."""
    warnings.simplefilter("ignore", ResourceWarning)  # MLflow leaves its connections open
    client, lost = MlflowClient(uri), 0
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    levels = [run for run in runs if run.data.tags.get("mlflow.runName", "").startswith("level")]
    assert len(levels) == 3
    for run in levels:
        steps = {metric.step for metric in client.get_metric_history(run.info.run_id, "loss/total")}
        lost += len(set(range(0, STEPS, 50)) - steps)
    return lost


def test_tracking(tmp_path):
    dataset = tmp_path / "tiny.h5"
    subprocess.run(
        [sys.executable, "-m", "hiwm", "collect", *tiny.overrides(tmp_path, f"dataset.path={dataset}")],
        env=environment(None), check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    server = Server(tmp_path)
    server.start()
    Proxy.target, Proxy.delay = server.port, 2.0
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    late = f"http://127.0.0.1:{proxy.server_port}"
    cases = {
        "none": ("none", None), "a database": ("mlflow", None), "a server": ("mlflow", server.uri),
        "a server that is down": ("mlflow", f"http://127.0.0.1:{free_port()}"), "a server 2 s late": ("mlflow", late),
        "a server stopped and started again": ("mlflow", server.uri),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    lost = {}
    for repeat in range(REPEATS):
        for name, (tracking, uri) in cases.items():
            root = tmp_path / f"{name.replace(' ', '_')}{repeat}"
            began, process = train(root, tracking, uri, dataset)
            if "stopped" in name:
                time.sleep(8)
                server.stop()
                time.sleep(8)
                server.start()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0
            seconds[name].append(time.perf_counter() - began)
            cpu[name].append(usage.ru_utime + usage.ru_stime)
            if uri in (server.uri, late):
                subprocess.run(
                    [*SYNC, str(root / root.name)], env=environment(uri), check=True, stdout=subprocess.DEVNULL
                )
                lost[name] = missing(root.name, server.uri)
    proxy.shutdown()
    server.stop()
    ratio = {
        what: {name: min(times) / min(measured["none"]) for name, times in measured.items()}
        for what, measured in (("seconds", seconds), ("cpu", cpu))
    }
    print(json.dumps({"seconds": seconds, "cpu": cpu, "ratio": ratio, "lost": lost}, indent=1))
    assert not any(lost.values())
