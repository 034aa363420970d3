"""Shared by all tests: this folder is importable (`import tiny`), here and in the processes tests start."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are small, and threads that spin slow down a shared machine
os.environ.pop("MLFLOW_TRACKING_URI", None)  # tests record under their own folders
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores; tests send it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
if "HIWM_GPU" not in os.environ:  # `make gpu` sets it
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import tiny

# Warnings of other people's packages, which `filterwarnings = error` would turn into failures.
FOREIGN_WARNINGS = (
    "ignore:`torch.jit.script:DeprecationWarning",  # import torch_geometric
    "ignore:The ``noload`` loader strategy:DeprecationWarning",  # MLflow's tables in SQLAlchemy
    "ignore:index_reduce.. is in beta:UserWarning",  # LandmarkGraph.successors
)


def pytest_configure(config: pytest.Config) -> None:
    for line in FOREIGN_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


@dataclass(frozen=True)
class TinyRun:
    """A finished experiment; tests read it and change nothing in its folder.

    Args:
        root: of all results.
        overrides: its command line.
        config: the composed config.
    """

    root: Path
    overrides: list[str]
    config: Any

    @property
    def folder(self) -> Path:
        return self.config.folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Collected, trained, evaluated and reported once for all tests, with MLflow."""
    from hiwm.analysis.report import report
    from hiwm.config import load_config
    from hiwm.experiment import collect, evaluate, train

    root = tmp_path_factory.mktemp("tiny")
    overrides = tiny.overrides(root)
    config = load_config(overrides)
    collect(config)
    train(config)
    evaluate(config)
    report(config)
    return TinyRun(root, overrides, config)


@pytest.fixture
def agent(tiny_run: TinyRun) -> Any:
    """A fresh agent of the tiny run."""
    from hiwm.agent import load_agent

    return load_agent(tiny_run.folder / "hierarchy")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `make demo` has run, with less of everything."""
    import pages

    # episodes and landmarks in each of the 25 mazes
    mazes = ["dataset.episodes=100", "graph.num_nodes=100", "graph.min_component=2", "levels.level1.training.steps=20"]
    quick = [override for override in pages.QUICK if not override.startswith(("dataset.episodes", "graph.num_nodes"))]
    return _folder_of(tmp_path_factory.mktemp("demo"), [*pages.overrides("Makefile")[0], *quick, *mazes])


@pytest.fixture(scope="session")
def medium_maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `hiwm run experiment=pointmaze` has run, with less of everything; for the commands of the documentation."""
    import pages

    return _folder_of(tmp_path_factory.mktemp("medium_maze"), ["experiment=pointmaze", *pages.QUICK])


def _folder_of(folder: Path, arguments: list[str]) -> Path:
    from hiwm.cli import main

    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main(["run", *arguments]) == 0
    finally:
        os.chdir(before)
    return folder
