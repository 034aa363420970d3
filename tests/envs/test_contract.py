"""What an environment lacks is named before any work."""

from __future__ import annotations

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
    PartOfAGoal: r"the goal has no clock; .* set goal.columns=\[here\]",
}


@pytest.mark.parametrize("world", FAULTS)
def test_what_is_missing_is_named(world):
    with pytest.raises(ContractError, match=f"^room: .*{FAULTS[world]}"):
        check_contract(world, "room", "state", goal=["here", "clock"] if world is PartOfAGoal else ["state"])


def test_columns_of_an_environment_that_has_all():
    assert check_contract(tiny.TinyRoom, "room", "state", goal=[]) == {"state": (2,)}
    assert check_contract(tiny.DiscreteRoom, "room", "state", goal=["state"]) == {"state": (2,)}
    assert check_contract(PartOfAGoal, "room", "state", goal=["here"]) == {"here": (2,), "clock": (1,)}
    assert check_contract(NoGoal, "room", "state") == {"state": (2,)}  # collects only
    assert check_contract(FourRoom, "rooms", "state", goal=[])["pixels"] == (64, 64, 3)


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
    assert not (tmp_path / "tiny" / "levels").exists()
