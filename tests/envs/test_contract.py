"""What an environment lacks is named before any work."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tiny
from gymnasium import spaces

from hiwm.cli import main
from hiwm.envs.contract import ContractError, check_contract
from hiwm.envs.rooms.env import FourRoom


class NoGoal(tiny.TinyRoom):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0], {}


class NoSuccess(tiny.TinyRoom):
    def step(self, action):
        return *super().step(action)[:4], {}


class EndsAtOnce(tiny.TinyRoom):
    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, True, truncated, info


class OtherGoal(tiny.TinyRoom):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0], {"goal": np.zeros(3)}


class OtherShape(tiny.TinyRoom):
    def _observation(self):
        return np.zeros(3, np.float32)


class NotFinite(tiny.TinyRoom):
    def _observation(self):
        return np.array([0, np.nan], np.float32)


class NoOptions(tiny.TinyRoom):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class NoSpace(tiny.TinyRoom):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.action_space = None


class NoActions(tiny.TinyRoom):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.action_space = spaces.Box(-1, 1, (0,))


class NoLicence(tiny.TinyRoom):
    def __init__(self, **arguments):
        raise RuntimeError("no licence")


class StepFails(tiny.TinyRoom):
    def step(self, action):
        raise RuntimeError("physics exploded")


class GoalNotFinite(tiny.TinyRoom):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0], {"goal": np.array([0, np.nan])}


class SuccessIs(tiny.TinyRoom):
    """Its success is what a subclass says."""

    value: object = None

    def step(self, action):
        return *super().step(action)[:4], {"success": self.value}


class SuccessIsArray(SuccessIs):
    value = np.array([True])


class SuccessIsText(SuccessIs):
    value = "yes"


class SuccessIsNaN(SuccessIs):
    value = float("nan")


class NoReward(tiny.TinyRoom):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, None, *rest


class NoInfo(tiny.TinyRoom):
    def step(self, action):
        return *super().step(action)[:4], None


class ShapeChanges(tiny.TinyRoom):
    """Its observations grow in the middle of an episode."""

    def step(self, action):
        observation, *rest = super().step(action)
        self.steps = getattr(self, "steps", 0) + 1
        return np.resize(observation, 2 + (self.steps > 20)), *rest


class ManyChoices(tiny.TinyRoom):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.action_space = spaces.MultiDiscrete([3, 3])


class PartOfAGoal(tiny.TinyRoom):
    """The observation has two columns, the goal one."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.observation_space = spaces.Dict(
            {"here": self.observation_space, "clock": spaces.Box(0, 1, (1,), np.float32)}
        )

    def _observation(self):
        return {"here": self.position.astype(np.float32), "clock": np.zeros(1, np.float32)}

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return observation, {"goal": {"here": info["goal"]}}


FAULTS = {
    NoGoal: "the info of reset has nothing; expected goal",
    NoSuccess: "the info of step has nothing; expected success",
    EndsAtOnce: "the first step ended the episode with 3 seeds",
    OtherGoal: r"the goal's state has the shape \(3,\); expected \(2,\)",
    OtherShape: r"the observation state has the shape \(3,\); expected \(2,\), as its space says",
    NotFinite: "the observation state is not finite",
    NoOptions: r"reset fails with .*options.*; expected reset\(\*, seed=None, options=None\)",
    NoSpace: "the environment has no action_space",
    ManyChoices: "the action space is MultiDiscrete",
    NoActions: r"the action space is .* of the shape \(0,\); expected at least one number",
    NoLicence: "the constructor fails with RuntimeError: no licence",
    StepFails: "step fails with RuntimeError: physics exploded",
    GoalNotFinite: "the goal's state is not finite",
    SuccessIs: "success in the info of step is None; expected true or false",
    SuccessIsArray: "success in the info of step is array",
    SuccessIsText: "success in the info of step is 'yes'",
    SuccessIsNaN: "success in the info of step is nan",
    NoReward: "the reward of step is None; expected a number",
    NoInfo: "step fails with TypeError",
    PartOfAGoal: r"the goal has no clock; .* set goal.columns=\[here\]",
}


@pytest.mark.parametrize("world", FAULTS)
def test_what_is_missing_is_named(world):
    with pytest.raises(ContractError, match=f"^room: .*{FAULTS[world]}"):
        check_contract(world, "room", "state", goal=["here", "clock"] if world is PartOfAGoal else ["state"])


def test_columns_of_an_environment_that_has_all():
    assert check_contract(tiny.TinyRoom, "room", "state", goal=[]) == {"state": (2,), "action": (2,)}
    assert check_contract(tiny.DiscreteRoom, "room", "state", goal=["state"]) == {"state": (2,), "action": (5,)}
    assert check_contract(PartOfAGoal, "room", "state", goal=["here"]) == {"here": (2,), "clock": (1,), "action": (2,)}
    assert check_contract(NoGoal, "room", "state") == {"state": (2,), "action": (2,)}  # collects only
    assert check_contract(FourRoom, "rooms", "state", goal=[])["pixels"] == (64, 64, 3)


def test_a_shape_that_changes_in_an_episode_is_named(tmp_path, capfd):
    command = tiny.overrides(
        tmp_path, "allow=[test_contract,tiny]", "environment._target_=test_contract.ShapeChanges",
        "dataset.policy._target_=hiwm.data.policies.UniformPolicy", "~dataset.policy.noise",
    )  # fmt: skip
    assert main(["collect", *command]) == 2
    expected = r"ShapeChanges.*: the observation has the shape \(3,\); expected \(2,\), as its space says"
    assert re.search(expected, capfd.readouterr().err)


@pytest.mark.parametrize("world", [NoGoal, NoSuccess])
def test_nothing_is_collected_first(world, tmp_path, capfd):
    command = tiny.overrides(
        tmp_path, "allow=[test_contract,tiny]", f"environment._target_=test_contract.{world.__name__}"
    )
    assert main(["collect", *command]) == 2
    assert f"test_contract.{world.__name__}: the info of" in capfd.readouterr().err
    assert not list((tmp_path / "datasets").glob("*.h5*"))


def test_training_checks_the_environment_too(tmp_path, tiny_run, capfd):
    path = tiny_run.root / "datasets" / "tiny.h5"
    command = tiny.overrides(
        tmp_path, f"dataset.path={path}", "environment._target_=test_contract.NoGoal", "allow=[test_contract]"
    )
    with pytest.MonkeyPatch.context() as patch:  # the data say that they come from another class
        patch.setattr("hiwm.experiment.training.check_environment", lambda *_: None)
        assert main(["train", *command]) == 2
    assert "the info of reset has nothing" in capfd.readouterr().err
    assert not (tmp_path / "levels").exists()
