from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TinyRoom, replaced, shipped

from hiwm.agent import Agent
from hiwm.evaluation.config import Forbidden
from hiwm.evaluation.evaluate import evaluate, make_agents, summarize
from hiwm.evaluation.goals import keep_out
from hiwm.heads.state_readout import StateReadout


def silent(*_):
    pass


def test_steps_in_a_forbidden_box_are_counted(agent, tiny_run, tmp_path):
    class Still(TinyRoom):
        def step(self, action):
            return self._observation(), 0.0, False, False, {"success": False}

    config = replaced(
        tiny_run.config.evaluation, num_tasks=2, episodes=1, max_steps=4,
        forbidden={"low": [0.1, 0.1], "high": [0.3, 0.3], "margin": None}, baselines={},
    )  # fmt: skip
    outcome = evaluate(make_agents(agent, config), Still, config, [], silent, tmp_path / "parts")["hierarchical"]
    assert outcome.inside == [4, 4]
    numbers = summarize(outcome)["violations"]
    assert (numbers["share"], numbers["episodes"], numbers["steps"]) == (1, 2, 4)
    elsewhere = replaced(config, forbidden={"low": [0.6, 0.6], "high": [1.0, 1.0], "margin": None})
    outcome = evaluate(make_agents(agent, elsewhere), Still, elsewhere, [], silent, tmp_path / "elsewhere")[
        "hierarchical"
    ]
    assert summarize(outcome)["violations"]["share"] == 0


@pytest.fixture
def with_readouts(agent):
    """An agent whose goals are about columns of the state."""
    readouts = [
        StateReadout(dim_latent=level.encoder.dim, dim=2, width=8, depth=1).eval() for level in agent.hierarchy.levels
    ]
    inverse = {"strategy": "follow_inverse"}
    config = agent.config.changed({"graph": "none", "level0": inverse, "level1": inverse})
    spec = replace(agent.spec, goal=["x", "y"], goal_shapes=[[], [1]])
    return Agent(agent.hierarchy, replace(agent.heads, readouts=readouts), agent.graphs, config, spec)


def test_goals_with_a_forbidden_box_keep_out_of_it(with_readouts):
    box = Forbidden(low=[0.4, 0.0], high=[0.6, 0.5], margin=None).box
    columns = {"x": np.zeros(3, np.float32), "y": np.zeros((3, 1), np.float32)}
    for observation in (columns, np.zeros((3, 2), np.float32)):  # a part of the state, and a whole observation
        goal = keep_out(with_readouts, observation, box, 0.1)
        assert goal.size == 3
        assert goal.margin == 0.1
        torch.testing.assert_close(goal.region.low, torch.tensor([[0.4, 0.0]] * 3))
        torch.testing.assert_close(goal.region.high, torch.tensor([[0.6, 0.5]] * 3))


def test_agents_keep_out_of_the_box_with_their_own_margin(with_readouts, tiny_run, tmp_path, monkeypatch):
    margins = []

    def recorded(agent, goals, box, margin):
        margins.append((len(agent.hierarchy), margin))
        return keep_out(agent, goals, box, margin)

    monkeypatch.setattr("hiwm.evaluation.goals.keep_out", recorded)
    level0 = {
        "strategy": "search",
        "horizon": 6,
        "replan": 3,
        "action_repeat": 1,
        "proposal": {"center": "gaussian", "std": 0.7},
    }
    flat = {"num_levels": 1, "level0": level0}
    config = replaced(
        tiny_run.config.evaluation, num_tasks=1, episodes=1, max_steps=1,
        forbidden={"low": [0.4, 0.0], "high": [0.6, 0.5], "margin": 0.1},
        baselines={"wider": {**flat, "margin": 0.3}, "unaware": {**flat, "margin": None}},
    )  # fmt: skip
    outcomes = evaluate(make_agents(with_readouts, config), TinyRoom, config, [], silent, tmp_path)
    assert margins == [(3, 0.1), (1, 0.3)]
    assert all(outcome.inside == [0] for outcome in outcomes.values())
    with pytest.raises(
        ValueError, match=r"baselines.wider.margin is 0.3; expected none, because evaluation.forbidden has"
    ):
        replaced(config, forbidden=shipped("evaluation").forbidden.as_dict())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("wider", {"margin": -1}, r"evaluation.baselines.wider.margin is -1; expected null or a number of at least 0"),
        ("wider", {"margin": "far"}, r"evaluation.baselines.wider.margin is 'far'; expected null or a number"),
        (
            "hierarchical",
            {"num_levels": 1},
            r"evaluation.baselines has 'hierarchical', the name of the hierarchical agent",
        ),
    ],
)
def test_baselines_that_cannot_be(name, changes, message):
    with pytest.raises(ValueError, match=message):
        replaced(shipped("evaluation"), baselines={name: changes})


def test_agents_that_keep_out_of_a_box_need_readouts(agent, with_readouts, tiny_run):
    box = {"low": [0.0, 0.0], "high": [0.1, 0.1], "margin": 0.1}
    config = replaced(tiny_run.config.evaluation, forbidden=box)
    with pytest.raises(ValueError, match=r"expected one trained with goal.columns"):
        make_agents(agent, config)
    unaware = {name: {**changes, "margin": None} for name, changes in config.baselines.items()}
    make_agents(agent, replaced(config, forbidden={**box, "margin": None}, baselines=unaware))
    with pytest.raises(ValueError, match=r"evaluation.forbidden.low is \[0.0\]; expected 2 numbers, .* \['x', 'y'\]"):
        make_agents(
            with_readouts, replaced(config, forbidden={"low": [0.0], "high": [0.1], "margin": 0.1}, baselines={})
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forbidden": {"low": [0.0]}}, r"evaluation.forbidden.low is \[0.0\], .*high is \[\]; expected lists of one length"),
        ({"forbidden": {"low": [0.0], "high": [1.0], "margin": -1}}, r"evaluation.forbidden.margin is -1; expected at least 0"),
        ({"episodes": 0}, r"evaluation.episodes is 0; expected at least 1"),
        ({"attempts": 0}, r"evaluation.attempts is 0; expected at least 1"),
        ({"baseline_budget": -1.0}, r"evaluation.baseline_budget is -1.0; expected at least 0"),
        ({"name": "a/b"}, r"evaluation.name is 'a/b'; expected the name of a file without its extension"),
        ({"tries": 2}, r"unknown key evaluation.tries; expected one of "),
    ],
)  # fmt: skip
def test_a_protocol_that_cannot_be_run_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        shipped("evaluation", **changes)
