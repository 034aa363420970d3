"""Walls that differ between episodes."""

from functools import partial

import gymnasium
import numpy as np
import pytest
from tiny import TinyRoom

from hiwm.data.vector import make_vector
from hiwm.envs.rooms.env import FourRoom
from hiwm.evaluation.episodes import _reset, _walls


class NestedRoom(TinyRoom):
    """Its observations are a dict within a dict, and each episode has a wall where it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.Dict(
            {"body": gymnasium.spaces.Dict({"place": self.observation_space})}
        )

    def walls_of(self, observation):
        return [(*observation["body.place"], 0.5, 0.25)]

    def _observation(self):
        return {"body": {"place": super()._observation()}}


@pytest.mark.parametrize("wrapped", [False, True])
def test_walls_are_those_of_each_episode(wrapped):
    make = (lambda: gymnasium.wrappers.TimeLimit(NestedRoom(), 10)) if wrapped else NestedRoom
    envs = make_vector(make, 3)
    observations, _ = _reset(envs, 1, range(3), 0)
    for row in range(3):
        assert _walls(envs, observations, row).tolist() == [[*observations["body.place"][row].tolist(), 0.5, 0.25]]


def test_walls_of_a_vector():
    envs = make_vector(partial(FourRoom, side=4, tasks="unseen-v1", resolution=8), 3)
    observations, _ = _reset(envs, 1, range(3), 0)
    found = [_walls(envs, observations, row) for row in range(3)]
    for walls, doors in zip(found, observations["doors"], strict=True):
        np.testing.assert_array_equal(
            walls, FourRoom(side=4, tasks="unseen-v1", resolution=8).walls_of({"doors": doors})
        )
    assert len({walls.tobytes() for walls in found}) == 3


def test_an_environment_whose_walls_do_not_differ_gives_none():
    envs = make_vector(TinyRoom, 2)
    observations, _ = _reset(envs, 1, range(2), 0)
    assert _walls(envs, observations, 0).shape == (0, 4)
