"""Rules for every file that git tracks."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess

import pytest
import tiny

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 350
CODE = ("hiwm/", "levels/", "data/")
# Files that are still to be split: path -> their functions that are too long, or the file itself. Only remove entries.
TOO_LONG: dict[str, set[str]] = {}


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    if not (tiny.ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=tiny.ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.split("\0") if name]
    return [name for name in names if os.path.isfile(tiny.ROOT / name) and not os.path.islink(tiny.ROOT / name)]


def test_no_binary_file_is_tracked_but_figures_of_the_results_and_a_small_example(tracked):
    figures = {name for name in tracked if name.startswith("analysis/results/") and name.endswith(".png")}
    example = {name for name in tracked if name.startswith("hiwm/example_run/")}
    binary = {name for name in tracked if b"\0" in (tiny.ROOT / name).read_bytes()}
    assert binary <= figures | example
    assert sum((tiny.ROOT / name).stat().st_size for name in example) < 2_000_000


def too_long(path: str) -> set[str]:
    """Names of the functions that are too long, and the path if the file is."""
    source = (tiny.ROOT / path).read_text()
    found = {
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    return found | ({path} if source.count("\n") > MAX_FILE_LINES else set())


def test_functions_and_files_are_short(tracked):
    code = [name for name in tracked if name.startswith(CODE) and name.endswith(".py")]
    assert len(code) > 100
    found = {name: long for name in code if (long := too_long(name))}
    assert found == {name: long for name, long in TOO_LONG.items() if name in code}, "remove what is short by now"
