"""The documentation: every file it shows is written, every command of `docs/extending.md` is run, every link leads somewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pages
import pytest

import hiwm
from hiwm.cli import main

EXTENSIONS = {heading: text for heading, text in pages.sections("docs/extending.md").items() if pages.files(text)}


@pytest.fixture
def here(medium_maze, monkeypatch):
    """The folder of the maze as the current one; modules that a test imports from it are forgotten afterwards."""
    monkeypatch.chdir(medium_maze)
    monkeypatch.syspath_prepend(str(medium_maze))
    before = set(sys.modules)
    yield medium_maze
    for module in set(sys.modules) - before:
        if module.startswith("my_"):
            del sys.modules[module]


def write(text: str) -> None:
    for name, content in pages.files(text).items():
        Path(name).write_text(content)


def run(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.pop(0) == "hiwm"
    own = {override.split("=")[0] for override in command}
    quick = [] if command[0] == "data" else [key for key in pages.QUICK if key.split("=")[0] not in own]
    assert main([*command, *quick]) == 0, capsys.readouterr().err


def test_all_extension_points_are_there():
    assert list(EXTENSIONS) == [
        "Encoder", "Regularizer", "Predictor", "Solver", "Planning strategy", "Cost", "Goal", "Diagnostic", "Environment",
    ]  # fmt: skip


@pytest.mark.parametrize("heading", EXTENSIONS)
def test_an_extension_is_one_file_and_one_command(heading, here, capsys):
    text = EXTENSIONS[heading]
    (content,) = pages.files(text).values()
    assert len(content.splitlines()) <= {"Planning strategy": 60}.get(heading, 40)
    write(text)
    (command,) = pages.commands(text)
    run(command, capsys)
    CHECKS[heading](Path("runs"), capsys.readouterr().out)


def _trained(name: str, target: str):
    def check(runs: Path, out: str) -> None:
        assert target in (runs / name / "hierarchy" / "hierarchy.yaml").read_text()

    return check


def _evaluated(name: str, key: str, target: str):
    def check(runs: Path, out: str) -> None:
        result = json.loads((runs / "pointmaze-medium-navigate" / f"{name}.json").read_text())
        assert target in json.dumps(result[key])
        # at most a plan's rounding above the budget
        assert result["agents"]["hierarchical"]["predictor_calls"] < 1.1 * result["planner"]["budget"]

    return check


def _room(runs: Path, out: str) -> None:
    assert (runs / "room" / "evaluation.json").exists()
    assert (runs / "room" / "report.html").exists()


CHECKS = {
    "Encoder": _trained("fourier", "my_encoder.FourierEncoder"),
    "Regularizer": _trained("unit_std", "my_regularizer.UnitStd"),
    "Predictor": _trained("linear", "my_predictor.LinearPredictor"),
    "Solver": _evaluated("hill_climbing", "planner", "my_solver.HillClimbing"),
    "Planning strategy": _evaluated("beam", "planner", "my_strategy.BeamSearch"),
    "Cost": _evaluated("effort", "planner", "my_cost.Effort"),
    "Goal": _evaluated("near", "protocol", "my_goal.near"),
    "Diagnostic": lambda runs, out: None if "spread" in out else pytest.fail(out),
    "Environment": _room,
}


def test_hill_climbing_takes_no_argument_of_the_solver_it_replaces(here):
    from hiwm.config import load_config

    write(EXTENSIONS["Solver"])
    solver = load_config(pages.commands(EXTENSIONS["Solver"])[0][2:]).planner.solver
    assert solver == {"_target_": "my_solver.HillClimbing", "iterations": 3}


@pytest.mark.parametrize(
    "changes", [{"graph": "none"}, {"graph": "none", "shrinking_horizon": True}, {"graph": "search"}]
)
def test_beam_search_keeps_constraints_alternatives_and_budget(changes, here):
    write(EXTENSIONS["Planning strategy"])
    write(EXTENSIONS["Goal"])
    from my_goal import Near, near

    class NearWithBorder(Near):
        """The first number of the top level's latents must not exceed a border, (B,)."""

        def violation(self, level, latent):
            border = self.border.reshape(-1, *(1 for _ in latent.shape[1:-1]))
            return latent[..., 0] - border if level == 2 else None

        def select(self, rows):
            return with_border(super().select(rows), self.border[rows])

    def with_border(goal, border):
        made = NearWithBorder(goal.latents, goal.radii)
        made.border = border
        return made

    strategy = {"_target_": "my_strategy.BeamSearch", "width": 8}
    agent = hiwm.load_agent("runs/pointmaze-medium-navigate/hierarchy", allow=["my_strategy"])
    agent = agent.with_planner(**changes, level2={"strategy": strategy, "horizon": 3})
    start = np.array([[0, 0], [4, 4], [12, 0]], np.float32)
    free = near(agent, np.array([[20, 20], [20, 0], [0, 20]], np.float32), steps=0.5)
    agent.reset(free)
    agent.act(start)
    top = agent.plan.levels[2]
    assert top.alternatives is not None
    assert top.alternatives.cost.isfinite().any()
    assert top.actions.shape[:2] == top.predicted.shape[:2] == (3, 3)
    assert top.violation is None

    # every plan from above is beyond this border
    agent.reset(with_border(free, top.subgoal[:, 0] - 0.01))
    agent.act(start)
    kept = agent.plan.levels[2]
    assert (kept.violation <= 0).all()
    assert "keeps its constraints" in kept.explain()

    calls = [agent.plan.predictor_calls]
    for _ in range(9):
        agent.act(start)
        calls.append(agent.plan.predictor_calls)
    assert np.mean(calls) <= 1.1 * agent.config.budget
    agent.select(np.array([True, False, True]))
    agent.act(start[:2])


def test_beam_search_says_that_its_width_is_too_large(here):
    write(EXTENSIONS["Planning strategy"])
    agent = hiwm.load_agent("runs/pointmaze-medium-navigate/hierarchy", allow=["my_strategy"])
    with pytest.raises(ValueError, match=r"planner.level2.strategy.width is 9000; expected at most \d+"):
        agent.with_planner(graph="none", level2={"strategy": {"_target_": "my_strategy.BeamSearch", "width": 9000}})


@pytest.mark.parametrize(
    ("page", "heading"), [("docs/datasets.md", "Your own dataset"), ("docs/goals.md", "Goals on a part of the state")]
)
def test_a_page_with_a_script(page, heading, here, capsys):
    text = pages.sections(page)[heading]
    write(text)
    for command in pages.commands(text):
        if command[0] == "python":
            done = subprocess.run([sys.executable, "-W", "ignore", *command[1:]], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        else:
            run(command, capsys)


def test_the_recorded_episodes_are_read_as_the_page_says(demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    (snippet,) = re.findall(r"```python\n(.*?)```", pages.read("docs/report.md"), re.S)
    exec(compile(snippet, "docs/report.md", "exec"), {})
    assert "level 1, planned at step " in capsys.readouterr().out


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_lead_somewhere(page):
    path = pages.ROOT / page
    links = [link for link in pages.links(page) if not link.startswith("http")]
    assert links or page == "docs/datasets.md"
    for link in links:
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not heading or heading in pages.anchors(target), link
