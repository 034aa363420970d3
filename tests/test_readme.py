"""The README's commands compose, its Python snippet runs, and its links and numbers are right."""

from __future__ import annotations

import csv
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pages
import pytest
import tiny

import hiwm
from hiwm.cli import main
from hiwm.config import load_config
from hiwm.evaluation.statistics import interval_over_tasks

README = pages.read("README.md")


def test_it_is_short():
    assert len(README.splitlines()) <= 170


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_command_composes(page):
    for overrides in pages.overrides(page):
        load_config(overrides)


def test_there_are_commands():
    assert len(pages.overrides("README.md")) >= 6
    assert [
        "experiment=pointmaze",
        "environment.maze=giant",
        "dataset.environment.behaviour=stitch",
    ] in pages.overrides("README.md")


def test_make_has_the_targets_that_pages_name():
    makefile = pages.read("Makefile")
    for page in pages.PAGES:
        for name in re.findall(r"(?:`|^)make (\w+)", pages.read(page), re.M):
            assert re.search(rf"^{name}:", makefile, re.M), f"{page}: make {name}"


def test_the_demo_saves_what_the_readme_shows():
    overrides = pages.overrides("Makefile")[0]
    assert f"{load_config(overrides).folder}/" in README


def test_its_python_snippet_runs(demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    (snippet,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "load_agent" in block)
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("level 1, planned at step ")


def test_its_snippet_with_arrays_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "hiwm.train" in block)
    action = np.random.default_rng(0).uniform(-1, 1, (12, 130, 2)).astype(np.float32)
    quick = ["training.steps=10", "training.batch=32", "graph.num_nodes=20", "tracking=none", "threads=1"]
    small = SimpleNamespace(train=partial(hiwm.train, overrides=quick))
    names = {"hiwm": small, "states": 0.05 * np.cumsum(action, 1), "actions": action, "make_env": tiny.TinyRoom}
    exec(compile(snippet.replace("episodes=10", "episodes=1, max_steps=5"), "README.md", "exec"), names)
    assert len(names["latents"]) == 2
    assert names["numbers"]["episodes"] == 3


@pytest.mark.parametrize("name", ["_target_", "regularizers", "costs"])
def test_the_table_of_extensions_names_importable_classes(name):
    from hiwm.build import locate

    table = README.split("## Extend it")[1].split("##")[0]
    assert name in table
    classes = re.findall(r"`(hiwm\.[\w.]+\.[A-Z]\w+)`", table)
    assert len(classes) == 8
    for path in classes:
        if path != "hiwm.planning.goals.Goal":  # from the package, where it is not defined
            locate(path)


def test_the_tree_names_what_exists():
    tree = README.split("## Where things are")[1]
    for folder, name in re.findall(r"^( *)([\w/.]+)[, ]", tree.split("```")[1], re.M):
        assert (pages.ROOT / ("hiwm" if folder else "") / name).exists(), name


def test_means_and_seeds_are_those_of_the_results():
    """Each row's mean, seeds and interval follow from the counts on the results page, which follow from the CSV file."""
    rows = list(csv.DictReader(pages.read("analysis/results/evaluation.csv").splitlines()))
    cells = {
        "pointmaze giant-navigate": "pointmaze-giant-navigate", "pointmaze giant-stitch": "pointmaze-giant-stitch",
        "pointmaze teleport-navigate": "pointmaze-teleport-navigate",
        "pointmaze teleport-stitch": "pointmaze-teleport-stitch", "cube-single": "cube-single",
        "cube-double": "cube-double", "cube-triple": "cube-triple", "scene": "scene",
        "puzzle-3x3, no graph when planning": "puzzle-3x3",
        "puzzle-4x4, no graph when planning": "puzzle-4x4",
    }  # fmt: skip
    for cell, experiment in cells.items():
        found = re.search(rf"^\| {cell} \| (\d+) \[(\d+), (\d+)\] \| ([\d., ]+) \|", README, re.M)
        assert found, cell
        known = {}
        for row in rows:
            if row["experiment"] == experiment and row["agent"] == "hierarchical":
                known.setdefault(row["seed"], []).append(row)
        shares = [100 * int(row["won"]) / int(row["episodes"]) for row in (known[seed][-1] for seed in sorted(known))]
        seeds = [float(number) for number in found[4].split(",")]
        assert len(shares) == len(seeds) == 3
        assert float(found[1]) == pytest.approx(sum(shares) / 3, abs=0.5), cell
        assert seeds == pytest.approx(shares, abs=0.51), cell
        last = [known[seed][-1] for seed in sorted(known)]
        rates = np.array([[float(rate) for rate in row["per_task"].split()] for row in last])
        interval = interval_over_tasks(rates, int(last[0]["episodes"]) // rates.shape[1])
        assert [float(found[2]), float(found[3])] == pytest.approx([100 * end for end in interval], abs=0.51), cell


def test_the_command_line_names_its_commands(capsys):
    assert main(["train", "--help"]) == 0
    help_ = capsys.readouterr().out
    for name in ("experiment=", "encoder@levels.level<k>.encoder=", "solver@planner.solver=", "evaluation="):
        assert name in help_
    for file in ("config", "level/abstract", "planner/level", "evaluation/ogbench"):
        keys = re.findall(r"^ *(\w+):", pages.read(f"configs/{file}.yaml"), re.M)
        assert keys
        for key in keys:
            assert re.search(rf"^ +{key}:|^{key}:", help_, re.M), key


def test_the_examples_of_the_command_line_compose():
    from hiwm.usage import USAGE

    examples = re.findall(r"hiwm (?:run|train) (experiment=[^\n<]*)", USAGE)
    assert len(examples) == 3
    for example in examples:
        load_config(example.split())
