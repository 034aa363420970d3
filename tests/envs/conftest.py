"""OGBench's manipulation environments, one of each for the tests of a module."""

import pytest

from hiwm.envs.manipulation import NAMES, Manipulation


@pytest.fixture(scope="module", params=NAMES)
def plain(request):
    return Manipulation(name=request.param)


@pytest.fixture(scope="module", params=("cube-double", "scene", "puzzle-3x3"))
def play(request):
    return Manipulation(name=request.param, behaviour="play")


@pytest.fixture(scope="module")
def scene():
    return Manipulation(name="scene", behaviour="play")
