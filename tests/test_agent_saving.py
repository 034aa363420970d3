"""What an agent saves and loads, and which classes it trusts."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import hiwm
from hiwm.agent import load_agent

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


def test_a_hierarchy_of_another_version_is_refused(saved):
    described = yaml.safe_load((saved / "agent.yaml").read_text())
    described["planner"]["telepathy"] = 1.0
    (saved / "agent.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(
        ValueError, match=r"is from another version of hiwm: unknown key planner.telepathy;.*`hiwm train` saves"
    ):
        load_agent(saved, allow=["tiny"])


def test_an_agent_is_found_in_the_folder_of_its_run_or_experiment(tiny_run, tmp_path):
    home = tiny_run.folder / "hierarchy"
    for folder in (home, tiny_run.folder):
        assert len(load_agent(folder).hierarchy) == 3
    shutil.copytree(home, tmp_path / "seed1" / "hierarchy")
    assert len(load_agent(tmp_path).hierarchy) == 3
    shutil.copytree(home, tmp_path / "seed2" / "hierarchy")
    with pytest.raises(
        ValueError, match=r"has several hierarchies; expected one of .*seed1/hierarchy, .*seed2/hierarchy"
    ):
        load_agent(tmp_path)
    shutil.copytree(home, tmp_path / "hierarchy")  # that of seed 0 lies in the experiment's own folder
    assert len(load_agent(tmp_path).hierarchy) == 3
    with pytest.raises(ValueError, match="nothing"):
        load_agent(tmp_path / "nothing")
