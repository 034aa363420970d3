"""An evaluation resumes if the code is the same, committed or not."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import tiny

import hiwm
from hiwm.config import load_config
from hiwm.experiment import evaluate
from hiwm.experiment.session import code_fingerprint, commit


@pytest.fixture
def config(tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder / "hierarchy", tmp_path / "tiny" / "hierarchy")
    shutil.copy(tiny_run.folder / "config.yaml", tmp_path / "tiny")
    given = [f"dataset.path={tiny_run.config.dataset.path}", "tracking=none", "evaluation.name=again"]
    return load_config(tiny.overrides(tmp_path, *given, "evaluation.num_tasks=2", "evaluation.max_steps=5"))


def test_it_resumes_in_a_clone_with_uncommitted_changes(config, monkeypatch, capsys):
    def stops(self, agent, done, won, of):
        if done == of:
            raise KeyboardInterrupt

    monkeypatch.setattr("hiwm.experiment.evaluation.commit", lambda: "0123abc+")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr("hiwm.experiment.evaluation.Bars.__call__", stops)
        evaluate(config)
    kept = len([*config.folder.glob("again-*.parts/**/*.json")])
    assert kept > 1
    capsys.readouterr()
    assert evaluate(config)["commit"] == "0123abc+"
    assert f"continues after {kept} finished batches of episodes" in capsys.readouterr().out
    assert not [*config.folder.glob("*.parts")]


def test_it_starts_anew_with_other_code(config, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(
            "hiwm.experiment.evaluation._keep_other_results", lambda path: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        evaluate(config)
    monkeypatch.setattr("hiwm.experiment.evaluation.code_fingerprint", lambda: "f" * 16)
    capsys.readouterr()
    evaluate(config)
    assert "continues after" not in capsys.readouterr().out


def test_the_fingerprint_of_the_code_follows_every_source_file(tmp_path, monkeypatch):
    package = tmp_path / "hiwm"
    (package / "planning").mkdir(parents=True)
    (tmp_path / "levels").mkdir()
    (package / "levels").symlink_to("../levels")  # as in a clone
    files = [package / "__init__.py", package / "planning" / "planner.py", tmp_path / "levels" / "level.py"]
    for file in files:
        file.write_text("x = 1\n")
    monkeypatch.setattr(hiwm, "__file__", str(files[0]))
    before = code_fingerprint()
    assert before == code_fingerprint()
    for file in files:
        file.write_text("x = 2\n")
        assert code_fingerprint() != before
        file.write_text("x = 1\n")
    assert code_fingerprint() == before


def test_a_repository_that_hiwm_is_installed_in_is_not_its_own(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    package = tmp_path / ".venv" / "hiwm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / "theirs.py").write_text("")
    git("init")
    git("add", "theirs.py")
    git("commit", "-m", "theirs")
    monkeypatch.setattr(hiwm, "__file__", str(package / "__init__.py"))
    assert commit() == ""
    git("add", "-f", ".venv")
    git("commit", "-m", "ours")
    assert len(commit()) >= 7
    (package / "__init__.py").write_text("x = 1\n")
    assert commit().endswith("+")
