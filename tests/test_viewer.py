"""The viewer of the report: its data, its size, its safety, and what a browser shows."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import trace_tools
from matplotlib.figure import Figure

from hiwm.analysis import report as report_module
from hiwm.analysis.report import _scene, report
from hiwm.analysis.shown_states import ShownStates, rounded
from hiwm.analysis.viewer import ADVICE, LIMIT, Viewer, choose, data_uri, pack, realised, safe_json
from hiwm.config import load_config
from hiwm.data.store import Writer, open_dataset
from hiwm.evaluation.outcomes import Episodes, LevelTrace
from hiwm.evaluation.traces import load_traces, save_traces
from hiwm.experiment import evaluate, run, train

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def unpack(packed: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.fixture(scope="module")
def scene(tiny_run):
    from hiwm.agent import load_agent

    agent = load_agent(tiny_run.folder / "hierarchy")
    dataset = open_dataset(tiny_run.config.dataset.path)
    return _scene(tiny_run.config, agent, dataset, tiny.TinyRoom().walls, evaluated=True)


@pytest.fixture(scope="module")
def traces(tiny_run):
    return load_traces(tiny_run.folder / "evaluation.npz")


def test_an_episode_is_shown_with_all_of_its_plans(scene, traces):
    shown = Viewer(traces, scene).fill(5_000_000)
    head, tables = json.loads(shown["head"]), unpack(shown["tables"])
    assert shown["left_out"] == []
    assert head["axes"] == ["x (world units)", "y (world units)"]
    assert head["walls"] == [list(tiny.WALL)]
    episodes = [unpack(packed) for packed in shown["episodes"]]
    assert [{key: episode[key] for key in head["episodes"][0]} for episode in episodes] == head["episodes"]
    assert {(episode["agent"], episode["task"]) for episode in episodes} == {
        (name, task) for name in ("hierarchical", "flat", "flat_graph") for task in (1, 2)
    }
    known = {(name, trace.task, trace.episode): trace for name, of in traces.items() for trace in of}
    for episode in episodes:
        trace = known[episode["agent"], episode["task"], episode["episode"]]
        np.testing.assert_allclose(episode["path"], trace.states, rtol=1e-3)
        for k, (level, kept) in enumerate(zip(episode["levels"], trace.levels, strict=True)):
            assert level["why"] == kept.why
            assert level["plans"]["step"] == kept.plans["step"].tolist()
            np.testing.assert_allclose(level["plans"]["current_cost"], kept.plans["current_cost"], rtol=6e-3)
            states = np.array(tables["states"])[level["plans"]["subgoal"]]
            np.testing.assert_allclose(states, scene.decoder.decode(k, kept.plans["subgoal"]), rtol=1e-3, atol=1e-6)
    by_agent = {episode["agent"]: episode for episode in episodes}
    assert set(tables["graphs"]) == {"hierarchical", "flat_graph"}
    top = by_agent["hierarchical"]["levels"][2]["plans"]
    nodes = scene.agent.graphs[2].data["row"].numpy()
    for path, target in zip(top["path"], top["path_target"], strict=True):
        assert target in path
        assert max(path) < len(nodes)
    where = np.array(tables["states"])[tables["graphs"]["hierarchical"]["nodes"]]
    np.testing.assert_allclose(where, scene.dataset.column("state")[nodes], rtol=1e-3)


def test_failures_come_first():
    path = np.random.default_rng(0).random((4, 2))
    found = [trace_tools.trace(task, won, path, [path]) for task, won in ((1, True), (2, False), (3, True), (4, False))]
    from hiwm.analysis.viewer import _failures_first

    assert [trace.task for trace in sorted(found, key=_failures_first)] == [2, 4, 1, 3]


def test_predictions_are_compared_with_the_latents_of_their_time():
    predicted = np.array([[[1.0], [2.0]], [[5.0], [6.0]]])
    level = LevelTrace(
        1, 3, 2.0, np.arange(7.0)[:, None], [], {"step": np.array([0, 3]), "predicted": predicted}, ["", ""]
    )  # fmt: skip
    found = realised(level, np.arange(7))
    assert found["error"] == [
        [1.0, 2.0],
        [0.5, None],
    ]  # |1 - 3| / 2, |2 - 6| / 2; |5 - 6| / 2, and the episode has ended
    assert found["moved"] == [[1.5, 3.0], [1.5, None]]


def test_real_states_are_listed_once(scene):
    states = ShownStates(scene.decoder, scene.dataset, ["state"], None)
    latents = scene.decoder.latents[1][[3, 5, 3]].numpy()
    latents = np.stack([latents, np.full_like(latents, np.nan)])
    place, distance = states.of_latents(1, latents)
    assert place[0, 0] == place[0, 2] != place[0, 1]
    assert (place[1] == -1).all()
    assert np.isnan(distance[1]).all()
    np.testing.assert_allclose(distance[0], 0, atol=2e-2)  # cdist rounds
    assert len(states.numbers()) == 2
    np.testing.assert_allclose(np.array(states.numbers())[place[0]], scene.decoder.states[[3, 5, 3]], rtol=1e-3)


def test_latents_that_hold_the_state_are_shown_at_it(scene):
    """Level 0 sees the position alone; level 1 does not keep its input."""
    latents = np.array([[0.3, -1.2], [5.0, 5.0]], np.float32)  # the second is nothing that the data have
    states = ShownStates(scene.decoder, scene.dataset, ["state"], None)
    place, _ = states.of_latents(0, latents)
    level = scene.agent.hierarchy.levels[0]
    expected = level.standardize.undo("state", torch.from_numpy(latents)).numpy()
    np.testing.assert_allclose(np.array(states.numbers())[place], expected, rtol=1e-3)
    np.testing.assert_allclose(scene.decoder.decode(0, latents), expected, rtol=1e-5)
    assert scene.decoder.held(1, scene.decoder.latents[1][:2]) is None
    rows = states.at_rows(np.array([4, 2]))
    np.testing.assert_allclose(
        np.array(states.numbers())[rows], np.asarray(scene.dataset.column("state"))[[4, 2]], rtol=1e-3
    )


def test_an_episode_is_drawn_with_its_own_walls(scene, traces):
    walls = np.array([[0.1, 0.2, 0.3, 0.4]])
    ((name, (trace, *_)), *_) = traces.items()
    (shown,) = Viewer({name: [replace(trace, walls=walls)]}, scene).shown
    assert shown["walls"] == walls.tolist()
    (shown,) = Viewer({name: [trace]}, scene).shown
    assert shown["walls"] == []


def test_what_does_not_fit_is_left_out_and_named(scene, traces):
    whole = Viewer(traces, scene).fill(5_000_000)
    sizes = [len(packed) for packed in whole["episodes"]]
    least = len(whole["head"]) + len(whole["tables"]) + len(whole["frames"])
    space = least + 200 * len(sizes) + sum(sizes) // 2
    half = Viewer(traces, scene).fill(space)
    total = len(half["head"]) + len(half["tables"]) + len(half["frames"]) + sum(map(len, half["episodes"]))
    assert total <= space
    assert 0 < len(half["episodes"]) < len(sizes)
    (sentence,) = half["left_out"]
    lost = len(sizes) - len(half["episodes"])
    assert sentence.startswith(f"{lost} of {len(sizes)} recorded episodes (")


def test_successes_are_left_out_before_failures():
    episodes = [{"success": won} for won in (True, False, True, False)]
    assert choose(episodes, [10, 10, 10, 10], 40) == ([0, 1, 2, 3], [])
    kept, (said,) = choose(episodes, [10, 10, 10, 10], 35)
    assert kept == [0, 1, 3]
    assert said == f"1 of 4 recorded episodes (0 failures, 1 success) do not fit into the page. {ADVICE}"
    assert choose(episodes, [10, 10, 10, 10], 15)[0] == [1]


def test_numbers_are_short_and_frames_are_exact():
    assert rounded(np.array([[1.23456, np.nan], [np.inf, 0.000123456]]), 3) == [[1.23, None], [None, 0.000123]]
    frame = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    from io import BytesIO

    from PIL import Image

    uri = data_uri(frame)
    assert uri.startswith("data:image/png;base64,")
    assert np.array_equal(np.array(Image.open(BytesIO(base64.b64decode(uri.partition(",")[2])))), frame)
    assert data_uri(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)).startswith(
        "data:image/jpeg"
    )
    assert unpack(pack({"a": [1]})) == {"a": [1]}


def test_json_ends_no_script():
    nasty = {"</script><!--": "<script>&\u2028]]>"}
    text = safe_json(nasty)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == nasty


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A tiny experiment from pixels."""
    overrides = tiny.overrides(
        tmp_path_factory.mktemp("images"), "experiment=fourroom", "tracking=none", "training.steps=10", "dataset.episodes=10",
        "dataset.steps=60", "evaluation.max_steps=20",
    )  # fmt: skip
    skipped = (
        "~experiment",
        "+environment",
        "allow",
        "name",
        "levels.level0",
        "+dataset",
        "planner.level",
        "levels.level1.stride",
        "levels.level2.stride",
    )
    config = load_config([each for each in overrides if not each.startswith(skipped)])
    run(config)
    report(config)
    return config


def test_an_experiment_from_pixels_shows_frames(images):
    page = (images.folder / "report.html").read_text()
    assert len(page.encode()) <= LIMIT
    frames = unpack(re.search(r'id="viewer-frames">([^<]*)<', page)[1])
    traces = load_traces(images.folder / "evaluation.npz")
    every = [trace for of in traces.values() for trace in sorted(of, key=lambda t: (t.success, t.task, t.episode))]
    assert [len(each) for each in frames["episodes"]] == [len(trace.frames) for trace in every]
    assert every[0].frame_steps[0] == -1
    assert every[0].frames.shape[1:] == (64, 64, 3)
    assert all(uri.startswith("data:image/") for uri in frames["table"])
    episode = unpack(re.search(r'id="viewer-episode-0">([^<]*)<', page)[1])
    for level in episode["levels"]:
        for place in np.array(level["plans"]["subgoal"]).ravel():
            assert frames["states"][str(place)] >= 0


def test_a_small_page_leaves_frames_out_first(images, monkeypatch):
    whole = (images.folder / "report.html").read_text()
    frames = len(re.search(r'id="viewer-frames">([^<]*)<', whole)[1])
    monkeypatch.setattr(report_module, "LIMIT", len(whole.encode()) - frames // 2)
    page = report(images).read_text()
    assert len(page.encode()) <= report_module.LIMIT
    assert re.search(r"Left out: [\d,]+ frames of observations or of real states near latents do not fit", page)
    assert page.count("viewer-episode-") == whole.count("viewer-episode-")


def test_a_dataset_without_an_environment_says_so(tmp_path):
    rng = np.random.default_rng(0)
    with Writer(tmp_path / "d.h5", {}) as writer:
        for _ in range(30):
            action = rng.uniform(-1, 1, (81, 2)).astype(np.float32)
            writer.append({"state": np.cumsum(0.05 * action, 0), "action": action})
    overrides = tiny.overrides(tmp_path, f"dataset.path={tmp_path / 'd.h5'}", "tracking=none", "training.steps=10")
    left = ("~experiment", "+environment", "+dataset", "allow", "name=", "planner.")
    config = load_config(["experiment=custom", *(each for each in overrides if not each.startswith(left))])
    train(config)
    page = report(config).read_text()
    assert "Trained on a dataset without an environment" in page
    assert "hiwm evaluate" not in page
    assert len(page) < 3_000_000  # without plotly


def test_failures_are_in_the_page_however_large_the_figures_are(failing, monkeypatch):
    """Figures of noise, which compress badly, with the real plotly: the failures stay, and the figures left out are named."""
    noise = np.random.default_rng(0).random((8, 900, 1400, 3))

    def draw(*_):
        figures = {name: Figure(figsize=(14, 9), dpi=100) for name in map("noise{}".format, range(len(noise)))}
        for figure, pixels in zip(figures.values(), noise, strict=True):
            figure.figimage(pixels, resize=True)
        return figures

    monkeypatch.setattr(report_module, "_draw", draw)
    page = report(failing).read_text()
    assert len(page.encode()) <= LIMIT
    head = json.loads(re.search(r'id="viewer-head">([^<]*)<', page)[1])
    recorded = [trace for of in load_traces(failing.folder / "again.npz").values() for trace in of]
    assert len(head["episodes"]) == len(recorded) > 0
    assert not any(episode["success"] for episode in head["episodes"])
    assert re.search(r"Left out, to keep the page below 10 MB: figures/noise\d\.png", page)
    monkeypatch.undo()
    report(failing)


# ---------------------------------------------------------------- in a browser


FAILING = ["evaluation.name=again", "+evaluation.environment.radius=-1"]


@pytest.fixture(scope="module")
def failing(tiny_run, tmp_path_factory):
    """The tiny experiment evaluated where nobody succeeds."""
    root = Path(shutil.copytree(tiny_run.root, tmp_path_factory.mktemp("failing") / "root"))
    config = load_config(
        tiny.overrides(
            root,
            f"dataset.path={root / 'datasets' / 'tiny.h5'}",
            "tracking=none",
            *FAILING,
        )
    )
    evaluate(config)
    report(config)
    return config


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def visit(browser, config, fragment=""):
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((config.folder / "report.html").as_uri() + fragment)
    page.wait_for_selector("#viewer[data-ready]", timeout=30_000)
    assert not errors
    return page, errors


def test_a_person_steps_through_a_failure_with_the_keyboard(browser, failing):
    traces = load_traces(failing.folder / "again.npz")
    page, errors = visit(browser, failing)
    trace = sorted(traces["hierarchical"], key=lambda each: (each.task, each.episode))[0]
    assert page.text_content("#v-outcome").startswith(f"The goal was not reached in {trace.steps} steps.")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowLeft")
    step = 14
    assert page.text_content("#v-step") == f"step {step} of {trace.steps - 1}"
    assert page.url.endswith(f"#agent=hierarchical&task={trace.task}&episode={trace.episode}&step={step}")
    for k, level in enumerate(trace.levels):
        i = int(level.plan_at(np.array([step]))[0])
        panel = page.locator(f".level[data-level='{k}']")
        assert panel.get_attribute("data-plan") == str(i)
        words = panel.locator("pre.why").text_content()
        assert re.sub(r"(landmark \d+) \(x \S+, y \S+\)", r"\1", words) == level.why[i]
        if "cost" in level.plans:
            shown = re.search(r"Cost (\S+) now, (\S+) at the cheapest step", panel.text_content())
            assert float(shown[1]) == pytest.approx(float(level.plans["current_cost"][i]), rel=6e-3)
            assert float(shown[2]) == pytest.approx(float(level.plans["cost"][i]), rel=6e-3)
    page.click("#v-map")
    page.keyboard.press("ArrowDown")
    top = trace.levels[-1].plans["step"]
    assert page.text_content("#v-step").startswith(f"step {top[top > step][0]} of")
    page.keyboard.press("n")
    page.wait_for_function("!location.hash.includes('task=1') || !location.hash.includes('episode=0')")
    assert not errors
    page.close()


def test_a_link_opens_its_step(browser, failing):
    page, errors = visit(browser, failing, "#agent=flat_graph&task=2&episode=0&step=7")
    assert page.input_value("#v-agent") == "flat_graph"
    assert page.text_content("#v-step").startswith("step 7 of")
    page.evaluate("location.hash = '#agent=hierarchical&task=2&episode=0&step=3'")
    page.wait_for_function("document.getElementById('v-step').textContent.startsWith('step 3 of')")
    assert page.input_value("#v-agent") == "hierarchical"
    assert page.locator("#v-map .tip").count() > 5
    assert page.locator("#v-map text", has_text="x (world units)").count() == 1
    assert (
        page.locator("#v-map text").evaluate_all(
            "all => all.filter((e) => e.textContent && !isNaN(e.textContent)).length"
        )
        >= 4
    )
    box, frame = "(e) => e.getBoundingClientRect().toJSON()", page.locator("#v-map rect").last
    inside, marks = frame.evaluate(box), page.locator("#v-map circle.tip").evaluate_all(f"all => all.map({box})")
    for mark in marks:  # the whole graph is in sight
        assert inside["left"] - 1 <= mark["left"] < mark["right"] <= inside["right"] + 1
        assert inside["top"] - 1 <= mark["top"] < mark["bottom"] <= inside["bottom"] + 1
    assert not errors
    page.close()


def test_every_landmark_that_the_text_names_is_on_the_map(browser, failing):
    traces = load_traces(failing.folder / "again.npz")
    page, _ = visit(browser, failing, "#agent=hierarchical&task=1&episode=0&step=0")
    named = re.findall(r"landmark \d+", traces["hierarchical"][0].explain(0))
    titles = page.locator("#v-map title").all_text_contents()
    assert named
    for name in named:
        assert any(re.search(rf"{name}\b", title) for title in titles)
    assert any(title.startswith("subgoal of level 2") for title in titles)
    assert any(title.startswith("subgoal of level 1") for title in titles)
    page.close()


def test_it_fits_a_phone_and_has_two_themes(browser, failing):
    page, _ = visit(browser, failing)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    page.click("#theme")
    assert page.evaluate(background) != before
    page.close()


def test_names_and_texts_stay_text(browser, failing, tmp_path):
    """A hostile name comes into the page, and runs nothing there."""
    name = "</script><script>window.hacked = 1</script><!--"
    root = Path(shutil.copytree(failing.root, tmp_path / "root"))
    config = load_config(
        [*FAILING, *tiny.overrides(root, f"dataset.path={root / 'datasets' / 'tiny.h5'}", "tracking=none")]
    )
    file = config.folder / "again.npz"
    traces = load_traces(file)
    first = traces["flat"][0]
    level = replace(first.levels[0], why=[name] * len(first.levels[0].why))
    save_traces(file, {name: Episodes(traces=[replace(first, levels=[level])])})
    report(config)
    page, _ = visit(browser, config)
    assert page.evaluate("window.hacked") is None
    assert page.locator("pre.why").first.text_content() == name
    assert page.input_value("#v-agent") == name
    page.close()
