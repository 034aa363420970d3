"""`hiwm compare`: runs on one page, with paired differences and the similarity of their latents."""

import shutil

import numpy as np
import pandas as pd
import pytest
import tiny

from hiwm.analysis.compare import compare_latents, compare_success, in_words, open_runs
from hiwm.cli import main
from hiwm.config import load_config
from hiwm.evaluation.config import HIERARCHICAL
from hiwm.experiment import evaluate, train
from hiwm.files import read_json, write_json


@pytest.fixture(scope="module")
def root(tiny_run, tmp_path_factory):
    """The tiny run, and another seed of it whose level 0 alone was trained differently."""
    root = tmp_path_factory.mktemp("compared")
    for name in ("levels", "tiny"):
        shutil.copytree(tiny_run.root / name, root / name, ignore=shutil.ignore_patterns("mlflow*"))
    more = [f"dataset.path={tiny_run.config.dataset.path}", "tracking=none", "seed=1", "training.steps=20"]
    config = load_config(tiny.overrides(root, *more))
    train(config)
    evaluate(config)
    return root


def test_the_page_compares_success_levels_and_latents(root, capsys):
    assert main(["compare", str(root / "tiny"), str(root / "tiny" / "seed1")]) == 0
    (home,) = (root / "comparisons").iterdir()
    assert f"comparison: {home / 'index.html'}" in capsys.readouterr().out
    page = (home / "index.html").read_text()
    assert page.count("<img") == 2
    success = pd.read_csv(home / "success.csv")
    assert len(success) == 2
    assert success["difference"].iloc[0] == 0
    one, other = (
        read_json(path / "evaluation.json")["agents"][HIERARCHICAL] for path in (root / "tiny", root / "tiny/seed1")
    )
    assert success["difference"].iloc[1] == pytest.approx(100 * (other["success"] - one["success"]))
    levels = pd.read_csv(home / "levels.csv")
    assert list(levels["level"]) == [0, 1, 2, 0, 1, 2]
    assert levels["fingerprint"].nunique() == 6


def test_latents_of_a_run_are_like_themselves(root):
    runs = open_runs([root / "tiny", root / "tiny" / "seed1"], [])
    names, table = compare_latents(runs)
    assert len(names) == 6
    np.testing.assert_allclose(np.diag(table), 1)
    np.testing.assert_allclose(table, table.T)
    assert table[0, 3] == pytest.approx(1)  # level 0 is the standardised state in both
    assert 0 < table[2, 5] < 1


def test_runs_on_other_starts_are_not_paired(root, tmp_path):
    shutil.copytree(root / "tiny", tmp_path / "tiny")
    shutil.copytree(root / "levels", tmp_path / "levels")
    shutil.rmtree(tmp_path / "tiny" / "seed1")
    results = read_json(tmp_path / "tiny" / "evaluation.json")
    results["protocol"]["seed"] += 1
    write_json(tmp_path / "tiny" / "evaluation.json", results)
    success = compare_success(open_runs([root / "tiny", tmp_path / "tiny"], []))
    assert "difference" not in success
    assert "not compared" in in_words(success)


def test_differences_in_words():
    success = pd.DataFrame([
        {"run": "a", "difference": 0.0, "difference_low": 0.0, "difference_high": 0.0},
        {"run": "b", "difference": 20.0, "difference_low": 5.0, "difference_high": 35.0},
        {"run": "c", "difference": -4.0, "difference_low": -20.0, "difference_high": 12.0},
    ])  # fmt: skip
    assert in_words(success) == (
        "b succeeds 20 percentage points more often than a (95 % interval +5 to +35); c succeeds 4 percentage points less often than a "
        "(95 % interval -20 to +12), which chance can explain."
    )


@pytest.mark.parametrize(
    ("given", "message"), [(["tiny"], "expected two or more folders"), (["tiny", "levels"], "has no config.yaml")]
)
def test_what_is_no_run_is_named(root, given, message, capsys):
    assert main(["compare", *(str(root / name) for name in given)]) == 2
    assert message in capsys.readouterr().err
