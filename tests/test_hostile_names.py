"""Names from commands, configs and data: they never leave their folder, and are shown as text, never as markup."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
import tiny
from rich.console import Console

import hiwm
from hiwm import console
from hiwm.analysis.report import report
from hiwm.cli import main
from hiwm.config import load_config
from hiwm.data.store import open_dataset
from hiwm.evaluation.outcomes import Episodes
from hiwm.evaluation.traces import load_traces, save_traces
from hiwm.experiment import evaluate, evaluation, session, train
from hiwm.files import read_json, write_json
from hiwm.progress import HISTORY

BAD = [
    "", ".", "..", "../x", "/tmp/x", "a/b", "a\\\\b", "a[/red]b", "[bold]", "a\tb", "a\x1b[2Jb", " a", "a ", "~", "a\x00b", "\u202ea", "a:b",
    "a*", "a|b", "<b>", "x" * 300,
]  # fmt: skip
GOOD = ["maze", "maze-v1.2", "a+b", "lr=0.1,b", "my run", "лабиринт", "_x", "-x", "a..b"]


@pytest.mark.parametrize("key", ["name", "evaluation.name", "evaluation.baselines"])
def test_names_never_leave_their_folder(key, tiny_run):
    def changed(name):
        if key == "evaluation.baselines":
            return tiny_run.config.changed({"evaluation": {"baselines": {name: {"num_levels": 1}}}})
        section, _, last = key.rpartition(".")
        return tiny_run.config.changed({section: {last: name}} if section else {key: name})

    for name in BAD:
        with pytest.raises(ValueError, match=rf"^{key}.* is .*; expected the name of a file"):
            changed(name)
    for name in GOOD:
        assert changed(name).folder.parent == tiny_run.root


def test_an_empty_name_is_refused_on_the_command_line(tmp_path, capsys):
    for name in ("''", "../x", "'a[/red]b'"):
        assert main(["collect", *tiny.overrides(tmp_path / "root"), f"name={name}"]) == 2
        assert "hiwm collect: name is " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("terminal", [True, False])
def test_text_is_printed_as_it_is(terminal, monkeypatch):
    written = io.StringIO()
    plain = Console(
        file=written, force_terminal=terminal, color_system=None, width=200, highlight=False, markup=False, emoji=False
    )
    monkeypatch.setattr(console, "console", plain)
    assert (console.console.options.is_terminal, "markup=False" in Path(console.__file__).read_text()) == (
        terminal,
        True,
    )
    for say in (console.say, console.shout):
        say("runs/a[/red]b [bold]x :smile: \x1b[2J\x07 \u202eabc")
    with console.Bar("[/red]\x1b[2J", 1, "steps") as bar:
        bar.update(1, "[/blue]")
    found = written.getvalue()
    assert found.count(r"runs/a[/red]b [bold]x :smile: \x1b[2J\x07 \u202eabc") == 2
    assert "\x1b[2J" not in found  # the real one
    assert r"[/red]\x1b[2J" in found


NASTY = [
    '<script>alert("1")</script>', '" onerror="alert(1)', "'><img src=x onerror=alert(1)>", "javascript:alert(1)",
    "</td></table></pre><iframe srcdoc=x>", "{{ 7 * 7 }}{% raw %}", "[/red]$\\frac{$ &lt; <!--", "]]><svg/onload=alert(1)>",
]  # fmt: skip


class Elements(HTMLParser):
    """Counts elements and attributes, and collects what attributes and texts hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.values: list[str] = []
        self.text: list[str] = []
        self.comments = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes.update(f"{tag}.{name}" for name, _ in attrs)
        self.values += [value or "" for _, value in attrs]

    def handle_data(self, data):
        self.text.append(data)

    def handle_comment(self, data):
        self.comments += 1


@pytest.fixture
def copied(tiny_run, tmp_path):
    shutil.copytree(tiny_run.root, tmp_path / "root")
    more = [f"dataset.path={tmp_path / 'root' / 'datasets' / 'tiny.h5'}", "tracking=none"]
    return load_config(tiny.overrides(tmp_path / "root", *more))


@pytest.mark.filterwarnings("ignore:constrained_layout")  # long names leave no room in the figures
def test_the_report_of_hostile_data_holds_no_element_of_theirs(copied):
    before = Elements(report(copied).read_text())
    with h5py.File(copied.dataset.path, "r+") as file:
        for name in NASTY:
            name = name.replace("/", "\N{FRACTION SLASH}")  # HDF5 would make a group
            file[name] = np.random.default_rng(0).random((len(file["state"]), 1), np.float32)
        file.attrs[NASTY[0]] = NASTY[1]
    path = copied.folder / "evaluation.json"
    results = read_json(path)
    results["agents"] |= dict.fromkeys(NASTY, results["agents"]["flat"])
    results |= {"machine": NASTY[0], "commit": NASTY[1], "experiment": NASTY[2]}
    write_json(path, results)
    traces = load_traces(path.with_suffix(".npz"))
    first = traces["hierarchical"][0]
    levels = [replace(level, why=(NASTY * len(level.why))[: len(level.why)]) for level in first.levels]
    traces["hierarchical"][:1] = [replace(first, levels=levels)]
    traces[NASTY[0]] = traces["flat"]
    save_traces(path.with_suffix(".npz"), {name: Episodes(traces=of) for name, of in traces.items()})
    for home in (copied.levels_folder).iterdir():
        with open(home / HISTORY, "a") as file:
            file.write(
                "".join(json.dumps({"step": 61, f"loss/{name}": 1.0, "loss/total": 1.0}) + "\n" for name in NASTY)
            )
    with open(copied.folder / "config.yaml", "a") as file:
        file.write("".join(f"# {name}\n" for name in NASTY))
    page = report(copied).read_text()
    after = Elements(page)
    rows = len(NASTY)  # of agents; no column can have such a name
    assert after.tags["tr"] == before.tags["tr"] + rows
    for tags in (before.tags, after.tags):
        for counted in ("tr", "td", "li", "b", "script"):
            tags.pop(counted)
    assert after.tags == before.tags
    assert set(after.attributes) == set(before.attributes)
    assert not any(name.split(".")[1].startswith("on") for name in after.attributes)
    assert not after.comments
    assert not any("alert" in value or "javascript:" in value for value in after.values)
    text = "".join(after.text)
    for name in NASTY:
        assert text.count(name) >= 2, name


def test_results_killed_before_they_were_recorded_are_recorded(copied, monkeypatch):
    path, recorded = copied.folder / "evaluation.json", []
    path.unlink()
    config = copied.changed({"evaluation": {"num_tasks": 1, "episodes": 1, "max_steps": 3}})

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "_record", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(config)
    assert path.exists()
    monkeypatch.setattr(evaluation, "_record", lambda config, agent, result, path: recorded.append(result["identity"]))
    found = evaluate(config)
    assert recorded == [found["identity"]]


def test_latents_of_other_weights_are_made_again(copied):
    homes = sorted((copied.levels_folder).iterdir())
    caches = [home / "latents.h5" for home in homes]
    before = [open_dataset(cache).fingerprint for cache in caches]
    times = [cache.stat().st_mtime_ns for cache in caches]
    train(copied)
    assert [cache.stat().st_mtime_ns for cache in caches] == times  # reused
    shutil.copy(caches[1], caches[0])  # of another level
    with h5py.File(caches[2], "r+") as file:
        file["latent"][:] = 0  # damaged
    train(copied)
    assert [open_dataset(cache).fingerprint for cache in caches] == before


def test_the_commit_is_of_hiwm_alone(tmp_path, monkeypatch):
    """hiwm may be installed inside the clone of the user's own project."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "mine.py").touch()
    subprocess.run([*git, "add", "mine.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "mine"], check=True)
    installed = tmp_path / "venv" / "hiwm" / "__init__.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setattr(hiwm, "__file__", str(installed))
    assert session.commit() == ""
    subprocess.run([*git, "add", "venv"], check=True)
    assert session.commit().endswith("+")
