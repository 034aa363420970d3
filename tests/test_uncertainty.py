from __future__ import annotations

import shutil

import pytest
import torch

from hiwm.analysis.report import report
from hiwm.analysis.uncertainty import calibration_curves, summary
from hiwm.config import load_config
from hiwm.heads.calibration import Calibration


@pytest.fixture
def known():
    """Of two steps ahead."""
    shares = torch.tensor([[0.2, 0.4, 0.5, 0.6], [0.3, 0.4, 0.55, 0.7]])
    two = torch.tensor([3.0, 5.0])
    return Calibration(
        scale=two,
        radius=4 * shares,
        ratio=two / 4,
        spearman=two / 10,
        raw=shares,
        scaled=1.2 * shares,
        conformal=1.3 * shares,
    )


def test_a_summary_says_least_and_most(known):
    words = summary(known)
    assert words["scale"] == "3.0 to 5.0"
    assert words["ratio"] == "0.8 to 1.2"
    assert words["raw"] == "20 to 30, 40, 50 to 55, 60 to 70"


def test_the_figure_has_a_row_a_level(known):
    figure = calibration_curves({0: known, 2: known}, {0: 1, 2: 30})
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in figure.axes][::3] == ["level 0: coverage", "level 2: coverage"]
    assert figure.axes[4].get_xlabel() == "steps ahead (of 30 environment steps)"
    assert list(figure.axes[4].lines[0].get_ydata()) == [3.0, 5.0]


def test_the_report_shows_it_where_there_is_an_ensemble(known, tiny_run, tmp_path):
    assert "Calibration of ensembles" not in (tiny_run.folder / "report.html").read_text().split("<pre>")[0]
    shutil.copytree(tiny_run.root, tmp_path, dirs_exist_ok=True)
    known.save(tmp_path / "tiny" / "hierarchy" / "calibration1.safetensors")
    more = [f"root={tmp_path}", f"dataset.path={tiny_run.config.dataset.path}", "tracking=none"]
    page = report(load_config([*tiny_run.overrides, *more])).read_text()
    assert '<td>level 1</td><td class="n">2</td><td class="n">3.0 to 5.0</td>' in page
    assert (tmp_path / "tiny" / "figures" / "calibration.png").exists()
