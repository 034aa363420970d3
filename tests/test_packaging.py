from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tiny

ROOMS = ("levels", "data", "analysis", "configs")
LEFT_OUT = ("analysis/notebooks/", "analysis/results/")


def tracked() -> list[str]:
    if not (tiny.ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git clone")
    listed = subprocess.run(["git", "ls-files"], cwd=tiny.ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if os.path.lexists(tiny.ROOT / name)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tracked files, so that the build leaves nothing in the clone."""
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(tiny.ROOT / name, clone / name, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--disable-pip-version-check", "-w", str(out)]
    if importlib.util.find_spec("setuptools"):
        command.append("--no-build-isolation")
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("hiwm-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def python(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_every_file(wheel):
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if not name.split("/")[0].endswith(".dist-info")}
    expected = set()
    for name in tracked():
        known = name.endswith((".py", ".yaml", ".json", ".html", ".js", ".css")) or name.startswith("hiwm/example_run/")
        if not known or name.startswith(LEFT_OUT):
            continue
        room = name.split("/")[0]
        if room in ROOMS:
            expected.add(f"hiwm/{name}")
        elif room == "hiwm":
            expected.add(name)
    assert len(expected) > 50
    assert expected - held == set()
    assert held - expected == set()  # no tests, no results, no stray packages


def test_it_works_away_from_the_clone(installed, tmp_path):
    script = (
        "import hiwm, hiwm.levels, importlib.resources as r\n"
        "from hiwm.config import load_config\n"
        "config = load_config(['environment.maze=large', 'evaluation=ablation'])\n"
        "print(hiwm.__file__); print(hiwm.levels.__file__)\n"
        "print(config.name, len(config.hierarchy.levels), config.evaluation.name)\n"
        "print(r.files('hiwm.analysis').joinpath('report.html').is_file())\n"
    )
    done = python(installed, tmp_path, "-c", script)
    assert done.returncode == 0, done.stderr
    package, levels, config, template = done.stdout.splitlines()
    assert package == str(installed / "hiwm" / "__init__.py")
    assert levels == str(installed / "hiwm" / "levels" / "__init__.py")
    assert config == "pointmaze-large-navigate 3 ablation"
    assert template == "True"


def test_the_command_works_away_from_the_clone(installed, tmp_path):
    done = python(installed, tmp_path, "-m", "hiwm", "run", "--help")
    assert done.returncode == 0, done.stderr
    assert "experiment=cube-double, " in done.stdout
    assert "pointmaze, " in done.stdout
    assert "stride: 10" in done.stdout
    (entry,) = installed.glob("hiwm-*.dist-info/entry_points.txt")
    assert "hiwm = hiwm.cli:main" in entry.read_text()


@pytest.mark.parametrize("room", ROOMS)
def test_linked_folders_are_not_top_level_packages(room, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(tiny.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", f"import {room}"], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ImportError: import hiwm.{room}, not {room}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(given, expected):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {key: value for key, value in os.environ.items() if key not in names} | given
    code = f"import hiwm, json, os; print(json.dumps({{k: os.environ[k] for k in {names} if k in os.environ}})); import torch"
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(found.stdout) == expected
    if "GOMP_SPINCOUNT" in found.stderr and "GOMP_SPINCOUNT" in expected:  # what the library of torch has read
        assert f"GOMP_SPINCOUNT = '{expected['GOMP_SPINCOUNT']}'" in found.stderr
