from __future__ import annotations

import base64
import html
import io
import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trace_tools
from matplotlib import image, rc_context
from PIL import Image

from hiwm.analysis import figures
from hiwm.analysis.questions import QUESTIONS
from hiwm.analysis.report import _learned, _read, report
from hiwm.config import ConfigError, load_config
from hiwm.heads.action_prior import ActionPrior
from hiwm.heads.state_readout import StateReadout
from hiwm.heads.value import Value
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.training.diagnostics.runner import SHIPPED


@pytest.fixture(scope="module")
def page(tiny_run):
    """The page without its scripts."""
    text = (tiny_run.folder / "report.html").read_text()
    return re.sub(r"<script[^>]*>.*?</script>", "<script></script>", text, flags=re.DOTALL)


def test_loads_nothing_from_elsewhere(page):
    linked = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']*)", page) + re.findall(r"url\(([^)]*)\)", page)
    assert linked
    assert all(link.startswith("data:image/webp;base64,") for link in linked)
    assert "@import" not in page
    assert "<link" not in page


def test_table_has_the_numbers_of_the_evaluation(page, tiny_run):
    agents = json.loads((tiny_run.folder / "evaluation.json").read_text())["agents"]
    rows = re.findall(r"<tr[^>]*><td>(.*?)</tr>", page, re.DOTALL)
    for name, numbers in agents.items():
        (row,) = [row for row in rows if row.startswith(f"{name}</td>")]
        cells = [cell.strip() for cell in re.findall(r"<td class=\"n\">(.*?)</td>", row, re.DOTALL)]
        low, high = numbers["interval"]
        assert cells[0] == f"{100 * numbers['success']:.1f} %"
        assert cells[1] == f"{100 * low:.1f} – {100 * high:.1f}"  # noqa: RUF001
        assert cells[2] == str(numbers["episodes"])
        assert cells[4] == f"{numbers['plan_ms']['mean']:.2f}"
        assert cells[5] == f"{numbers['predictor_calls']:.0f}"
        assert cells[6] == f"{numbers['other_calls']:.0f}"


def test_images_decode(page, tiny_run):
    images = re.findall(r"<img [^>]*src=\"data:image/webp;base64,([A-Za-z0-9+/=]+)", page)
    answered = json.loads((tiny_run.folder / "diagnostics.json").read_text()).keys() - {"sha256"}
    assert len(images) == 4 + len(answered)  # success, episodes, landmarks, curves, and one per question
    for encoded in images:
        pixels = np.array(Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))) / 255
        assert min(pixels.shape[:2]) > 100
        assert pixels[..., :3].std() > 0.01  # something is drawn
    for name in ("curves", "landmarks", "success", "episodes", *answered):
        assert image.imread(tiny_run.folder / "figures" / f"{name}.png").std() > 0.01


def test_levels_and_config_are_in_it(page, tiny_run):
    for folder in (tiny_run.config.levels_folder).iterdir():
        assert folder.name in page
    saved = (tiny_run.folder / "config.yaml").read_text()
    assert html.unescape(re.findall(r"<pre>(.*)</pre>", page, re.DOTALL)[0]) == saved


def test_the_caption_of_landmarks_says_whose_they_are(page, tiny_run):
    assert tiny_run.config.planner.graph == "follow"
    assert "planner with n levels uses the graph of level n − 1" in re.sub(r"\s+", " ", page)  # noqa: RUF001
    assert "planner.graph=none" not in page.split("<h2>Levels</h2>")[0]
    assert "Each episode has a map of its own" not in page


def test_every_question_has_a_panel(page, tiny_run):
    answers = json.loads((tiny_run.folder / "diagnostics.json").read_text())
    answers.pop("sha256")
    names = [question.__name__ for question in QUESTIONS]
    assert [*answers] == [name for name in names if name != "stability"]  # there are no other seeds
    for name, answer in answers.items():
        panel = re.findall(rf'<h3 id="{name}">(.*?)(?=<h3|<h2)', page, re.DOTALL)[0]
        assert answer["sentence"] in html.unescape(panel)
        assert "data:image/webp" in panel
        assert {key.split("/")[0] for key in answer["metrics"]} <= {"level0", "level1", "level2"}
    recorded = (tiny_run.folder / "mlflow.jsonl").read_text()
    for answer in answers.values():
        assert all(key in recorded for key in answer["metrics"])


def test_every_level_has_its_time_scale(page, tiny_run):
    for folder in (tiny_run.config.levels_folder).iterdir():
        scale = json.loads((folder / "metrics.json").read_text())["timescale"]
        row = re.findall(r"<tr><td>[^\n]*" + folder.name, page)[0]
        assert f'<td class="n">{scale:.0f}</td>' in row


def test_a_config_that_was_not_trained_is_refused(tiny_run):
    with pytest.raises(ConfigError, match=r"learning_rate 0\.001 \(the config says 0\.5\)"):
        report(load_config([*tiny_run.overrides, "training.learning_rate=0.5"]))


def test_an_evaluation_of_other_settings_names_them(tiny_run):
    with pytest.raises(ConfigError, match=r"belongs to an evaluation with planner.budget 120\S* \(the config says 130"):
        report(load_config([*tiny_run.overrides, "planner.budget=130"]))
    with pytest.raises(ConfigError, match=r"evaluation.max_steps 60 \(the config says 61\). Run `hiwm evaluate`"):
        report(load_config([*tiny_run.overrides, "evaluation.max_steps=61"]))


def test_the_best_agents_are_bold(page, tiny_run):
    agents = json.loads((tiny_run.folder / "evaluation.json").read_text())["agents"]
    best = max(numbers["success"] for numbers in agents.values())
    bold = re.findall(r"<tr class=\"best\"><td>(.*?)</td>", page)
    assert bold == [name for name, numbers in agents.items() if numbers["success"] == best]


def test_health_far_outside_does_not_squash_the_rest():
    records = [{"step": 0, "loss/total": 1.0}] + [
        {"step": step, "validation/copy_last": 0.1, "validation/state_probe_r2": r2}
        for step, r2 in ((0, -80.0), (10, 0.9))
    ]
    figure = figures.curves({0: records}, SHIPPED)
    figure.draw_without_rendering()
    loss, health = figure.axes
    assert health.get_ylim() == figures.HEALTH_RANGE
    (arrow,) = [line for line in health.lines if line.get_marker() == "v"]
    assert list(arrow.get_xydata()[0]) == [0, figures.HEALTH_RANGE[0]]
    assert min(axes.get_position().width for axes in (loss, health)) > 0.3
    for legend in figure.legends:
        assert legend.get_window_extent().y1 < min(axes.get_window_extent().y0 for axes in (loss, health))


def test_logarithmic_axes_have_numbers_where_formulas_are_not_parsed():
    records = [{"step": step, "loss/total": loss} for step, loss in ((0, 1.0), (10, 1e-4))]
    with rc_context({"text.parse_math": False}):
        figure = figures.curves({0: records}, SHIPPED)
        figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {"1", "0.1", "0.0001"} <= set(labels)
    assert not any("$" in label for label in labels)


def test_the_legend_of_one_task_fits_and_names_all_that_is_drawn(agent):
    """Subgoals of the hierarchy, the graph of the baseline."""
    path = np.random.default_rng(0).random((20, 2))
    subgoals = [
        np.random.default_rng(k).random((20, level.encoder.dim)) for k, level in enumerate(agent.hierarchy.levels)
    ]
    traces = {
        "hierarchical": [trace_tools.trace(1, True, path, subgoals)],
        "flat": [trace_tools.trace(1, False, path, subgoals[:1])],
    }
    decoder: Any = SimpleNamespace(states=path, decode=lambda level, latent: path[: len(latent)])
    graph: LandmarkGraph = agent.graphs[0]
    where = np.random.default_rng(0).random((graph.data.num_nodes, 2))
    figure = figures.episodes(traces, decoder, {"flat": (graph, where)}, [], ["east", "north"])
    figure.draw_without_rendering()
    assert {axes.get_xlabel() for axes in figure.axes} == {"east"}
    assert {axes.get_ylabel() for axes in figure.axes} == {"north"}
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {
        "path", "start", "goal", "landmark graph", "subgoals of level 1", "subgoals of level 2", "states of the data",
    }  # fmt: skip
    assert figure.bbox.x0 <= legend.get_window_extent().x0
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_heads_are_described():
    readouts = [StateReadout(dim_latent=3, dim=3, width=4, depth=1) for _ in range(2)]
    for k, readout in enumerate(readouts):
        readout.std.copy_(torch.tensor([1.0, 2.0, 3.0]))
        readout.error.copy_(torch.arange(3) + 10.0 * k)
        readout.prediction_error.copy_(torch.arange(3) + 10.0 * k + 5)
    prior = ActionPrior(dim_latent=3, dim_action=2, width=4, depth=1)
    prior.relative_loss.fill_(0.875)
    cost = Value(dim_latent=3, dim=3, width=4, depth=1, discount=0.9)
    cost.ahead.copy_(torch.tensor([1.0, 1.9, 3.5, 4.5]))
    heads: Any = SimpleNamespace(readouts=readouts, action_priors=[None, prior], values=[cost, None])
    agent: Any = SimpleNamespace(heads=heads, spec=SimpleNamespace(goal=["cubes", "drawer"]))
    columns: Any = SimpleNamespace(column={"cubes": np.zeros((5, 2)), "drawer": np.zeros(5)}.__getitem__)
    assert _read(agent, columns) == [
        {"name": "cubes[0]", "std": 1, "errors": [0, 5, 10, 15]},
        {"name": "cubes[1]", "std": 2, "errors": [1, 6, 11, 16]},
        {"name": "drawer[0]", "std": 3, "errors": [2, 7, 12, 17]},
    ]
    assert _learned(agent) == [
        "action prior of level 1: its held-out loss is 0.88 times the loss of N(0, I) in every state (1: nothing to learn)",
        "value head of level 0: median number of steps to states that held-out episodes reached in 1 steps: 1, 2 steps: 1.9, 4 steps: 3.5, 8 steps: 4.5",
    ]
