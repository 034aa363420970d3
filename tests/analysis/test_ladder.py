"""The ladder on the tiny experiment, and its sentence on known numbers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tiny
import torch
import worlds

from hiwm.analysis.ladder import compare, described, ladder, read_ladder, rungs
from hiwm.analysis.report import report
from hiwm.analysis.truth import OracleAgent, TrueDistance, TrueModel, Truth
from hiwm.config import ConfigError, load_config
from hiwm.planning.rollout import Rollout

WITHOUT_GRAPH = ["planner.graph=none", "evaluation.episodes=2", "evaluation.num_tasks=1", "evaluation.max_steps=20"]


@pytest.fixture(scope="module")
def finished(tiny_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("ladder")
    shutil.copytree(tiny_run.root, root, dirs_exist_ok=True)
    config = load_config([*tiny_run.overrides, f"root={root}", *WITHOUT_GRAPH])
    return config, ladder(config)


def test_every_part_of_every_level_is_replaced(finished):
    config, result = finished
    names = [row["name"] for row in result["rungs"]]
    assert names == [
        "as trained",
        "true subgoals, level 2", "true distance, level 2", "true dynamics, level 2", "true distance and dynamics, level 2",
        "true subgoals, level 1", "true distance, level 1", "true dynamics, level 1", "true distance and dynamics, level 1",
        "true distance, level 0", "true dynamics, level 0", "true distance and dynamics, level 0",
    ]  # fmt: skip
    assert all(row["episodes"] == 2 for row in result["rungs"])
    assert (config.folder / "figures" / "ladder.png").exists()
    table = (config.folder / "ladder.md").read_text()
    assert "| true dynamics, level 0 |" in table
    assert "As trained" in table
    assert not [*config.folder.glob("*.parts")]


def test_it_is_reused_and_reported(finished, capsys, monkeypatch):
    config, result = finished
    monkeypatch.setattr("hiwm.analysis.ladder.evaluate", None)  # would fail if it ran
    assert ladder(config) == {
        key: value for key, value in json.loads((config.folder / "ladder.json").read_text()).items() if key != "sha256"
    }
    assert "reused" in capsys.readouterr().out
    report(load_config(tiny.overrides(config.root)))  # another planner of the same levels
    page = (config.folder / "report.html").read_text()
    assert "Which part limits success" in page
    assert described(result).sentence.split(";")[0] in page
    assert "ladder" in json.loads((config.folder / "diagnostics.json").read_text())


def row(name, success, gain, low, high):
    return {
        "name": name,
        "success": success,
        "low": 0,
        "high": 1,
        "gain": gain,
        "gain_low": low,
        "gain_high": high,
        "clear": low > 0,
        "episodes": 50,
        "steps": 9.0,
    }


def test_the_part_that_regains_most_is_named():
    trained = row("as trained", 0.2, 0, 0, 0)
    good, better = row("true distance, level 0", 0.5, 0.3, 0.1, 0.5), row("true subgoals, level 1", 0.9, 0.7, 0.5, 0.9)
    chance = row("true dynamics, level 1", 1.0, 0.8, -0.1, 1.0)
    found = described({"rungs": [trained, good, better, chance], "graph": "none"})
    assert found.sentence == (
        "As trained, 20 % of 50 episodes succeed. The subgoals of level 1 lose most: with true subgoals there, 90 % succeed, "
        "+70 [+50, +90] percentage points."
    )
    assert found.numbers["ladder/true subgoals of level 1"] == 0.9
    none = described({"rungs": [trained, chance], "graph": "none"})
    assert none.sentence.endswith(
        "No single replacement by the truth gains more than chance; the largest gain is that of true dynamics, level 1, +80 [-10, +100]."
    )


def test_gains_are_paired():
    def agent(solved):
        return {
            "success": np.mean(solved),
            "interval": [0, 1],
            "episodes": len(solved),
            "steps": None,
            "per_task": {"1": {"solved": solved}},
        }

    trained, same = [0, 1] * 10, [0, 1] * 10
    rows = compare({"hierarchical": agent(trained), "true distance, level 0": agent(same)})
    assert rows[1]["gain"] == 0
    assert rows[1]["gain_high"] < 0.2  # of 20 episodes that all agree; unpaired ones would say 0.3
    assert not rows[1]["clear"]


def test_a_gain_is_clear_only_for_the_number_of_replacements():
    def agent(solved):
        return {
            "success": np.mean(solved),
            "interval": [0, 1],
            "episodes": 20,
            "steps": None,
            "per_task": {"1": {"solved": solved}},
        }

    trained, better = [0] * 20, [1] * 4 + [0] * 16
    few = {"hierarchical": agent(trained), "true distance, level 0": agent(better)}
    many = few | {f"true distance, level {k}": agent(trained) for k in range(1, 12)}
    assert compare(few)[1]["clear"]
    assert compare(few)[1]["gain_low"] == compare(many)[1]["gain_low"] > 0
    assert not compare(many)[1]["clear"]


def test_an_environment_that_knows_nothing_is_refused():
    with pytest.raises(ConfigError, match="environment is Pendulum, which has no `oracle`"):
        rungs(worlds.study(), "Pendulum")


@pytest.fixture
def truth():
    made = worlds.study(oracle=worlds.OpenField())
    found = Truth(made)
    agent = OracleAgent(made.agent, found)
    agent.reset(np.array([[2.0, 0.0]], np.float32))
    found.now = np.zeros((1, 2), np.float32)
    return agent, found


def test_true_dynamics_do_not_go_farther_than_the_agent_can(truth):
    agent, found = truth
    for k, reach in ((0, worlds.STEP), (1, worlds.STEP * worlds.STRIDE)):
        agent.planner.models[k].predictor.predictor.step_size = 50.0  # a model that believes in giant steps
        model = TrueModel(agent.planner.models[k], found)
        actions = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[0.0, -1.0], [0.0, -1.0]]]])
        rolled = model.rollout(torch.zeros(1, 2), None, actions)
        assert rolled.latents.shape == (1, 2, 2, 2)
        lengths = rolled.latents[0].norm(dim=-1)
        assert lengths[:, 0].tolist() == pytest.approx([reach, reach], abs=1e-3)
        assert (lengths[:, 1] <= 2 * reach + 1e-4).all()


def test_level_0_simulates_its_actions_exactly(truth):
    agent, found = truth
    model = TrueModel(agent.planner.models[0], found)
    rolled = model.rollout(torch.zeros(1, 2), None, torch.tensor([[[[0.5, 0.0], [0.0, 1.0]]]]))
    assert torch.allclose(rolled.latents[0, 0], torch.tensor([[0.025, 0.0], [0.025, 0.05]]))


def test_the_true_distance_counts_steps(truth):
    agent, found = truth
    problems = []
    plan = agent.planner.strategies[1].plan
    agent.planner.strategies[1].plan = lambda problem: problems.append(problem) or plan(problem)
    agent.act(np.zeros((1, 2), np.float32))
    problem = TrueDistance(agent.planner.strategies[1], found).replaced(problems[0])
    at = found.known[1][:6].reshape(1, 2, 3, 2)  # latents of real states, which are their positions
    cost = problem.target.cost(Rollout(problem.latent, torch.zeros(1, 2, 3, 2), at))
    expected = (at - torch.tensor([2.0, 0.0])).norm(dim=-1) / worlds.STEP
    assert ((cost - expected >= 0) & (cost - expected < 1)).all()
    assert (problem.evaluate(Rollout(problem.latent, torch.zeros(1, 2, 3, 2), at)).cost == cost.amin(-1)).all()


def test_goals_of_other_kinds_are_refused(truth):
    agent, _ = truth
    with pytest.raises(ValueError, match="expected goal observations"):
        agent.reset("go left")


def test_a_ladder_of_other_levels_is_not_reported(finished, agent):
    config, _ = finished
    agent.hierarchy.specs = (*agent.hierarchy.specs[:-1], agent.hierarchy.specs[0])
    assert read_ladder(config, agent) is None
