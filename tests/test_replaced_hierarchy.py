"""Replacing a saved hierarchy is atomic, and no config is evaluated with the hierarchy of another one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny

import hiwm
from hiwm.config import load_config
from hiwm.experiment import evaluate
from hiwm.hierarchy import Hierarchy

KILLER = """
import os, sys
from pathlib import Path
import torch
from hiwm.agent import load_agent

torch.set_num_threads(1)
home = Path(sys.argv[1])
old = load_agent(home)
other = load_agent(home)
with torch.no_grad():
    for level in other.hierarchy.levels:
        for value in level.parameters():
            value += 1
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate"}


def changes(event, arguments):
    return event in CHANGES or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))


def weight(agent):
    return [float(sum(value.double().sum() for value in level.parameters())) for level in agent.hierarchy.levels]


def save_and_die(agent, point):
    # in a process of its own; returns whether it was killed
    child = os.fork()
    if child == 0:
        left = [point]

        def count(event, arguments):
            if changes(event, arguments):
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)

        sys.addaudithook(count)
        agent.save(home)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


wanted = {"old": weight(old), "new": weight(other)}
found, point = [], 1
while save_and_die(other, point):
    left = weight(load_agent(home))
    assert left in wanted.values(), point  # one or the other, complete
    found.append("new" if left == wanted["new"] else "old")
    other.save(home)
    assert weight(load_agent(home)) == wanted["new"], point
    old.save(home)
    assert sorted(path.name for path in home.parent.iterdir()) == [home.name], point
    point += 1
assert weight(load_agent(home)) == wanted["new"]
print(len(found), found.count("old"), found.count("new"))
"""


def test_a_kill_at_any_change_of_a_file_leaves_a_complete_hierarchy(tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder / "hierarchy", tmp_path / "runs" / "hierarchy")
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "runs" / "hierarchy")], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    points, old, new = map(int, done.stdout.split())
    print(f"killed at {points} changes of files: {old} times the old hierarchy is there, {new} times the new one")
    assert points > 20
    assert old > 10
    assert new > 0


@pytest.fixture
def copied(tiny_run, tmp_path):
    shutil.copytree(tiny_run.root, tmp_path / "root")
    return load_config(tiny.overrides(tmp_path / "root", "tracking=none"))


def test_levels_of_another_config_are_not_evaluated(copied, agent):
    """As a kill between saving the hierarchy and `config.yaml` left them, or a copy by hand."""
    specs = [replace(spec, fingerprint="0" * 16) for spec in agent.hierarchy.specs]
    agent.hierarchy = Hierarchy(list(agent.hierarchy.levels), specs)
    agent.save(copied.folder / "hierarchy")
    with pytest.raises(ValueError, match=r"hierarchy holds the levels 0000000000000000.*; expected .*Run `hiwm train`"):
        evaluate(copied)


def test_heads_of_another_config_are_not_evaluated(copied, agent):
    other = copied.changed({"graph": {"num_nodes": 7}})
    agent.save(copied.folder / "hierarchy", other.as_dict())
    with pytest.raises(ValueError, match=r"was trained with graph.num_nodes 7 \(the config says 30\)"):
        evaluate(copied)


def test_a_folder_of_another_name_is_left_alone(agent, tmp_path):
    for name in ("agent.tmp", "agent.old", "agent.v1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    agent.save(tmp_path / "agent.v2")
    agent.save(str(tmp_path / "agent.v2"))
    hiwm.load_agent(tmp_path / "agent.v2")
    assert len(list(tmp_path.glob("*/notes.txt"))) == 3
    assert len(list(tmp_path.iterdir())) == 4
