"""Captions of cube positions, fixture states and buttons. Directions are those of the robot: left is +y, far is +x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hiwm.envs.captions import Caption

NEAR, FAR = 0.385, 0.465  # m: bounds of the middle of the table in x
RIGHT, LEFT = -0.08, 0.08  # m: and in y
LIES = 0.03  # m: a cube below this height lies on the table, where its centre is at 0.02
HELD = 0.1  # m: a cube above this height is in the air or on other cubes
COLOURS = ("red", "blue", "orange")
DRAWER_OPEN, WINDOW_OPEN = -0.08, 0.1  # m: half open
CUBE_SENTENCES = (
    "the {cube} lies {place}",
    "put the {cube} {place}",
    "move the {cube} so that it is {place}",
    "{cube} {place}",
    "the {cube} is {place}",
    "we want the {cube} {place}",
    "bring the {cube} to its new position {place}",
    "pick up the {cube} and leave it {place}",
    "make sure the {cube} ends {place}",
)
CUBE_LAST = "the {cube} should be {place}"
PLACES = {  # (from near to far, from right to left) -> phrases
    (0, 0): ("at the near right of the table", "in the close right corner", "on the right side, near the robot"),
    (0, 1): ("at the near edge, in the centre", "in the middle of the close side", "straight in front of the robot, near it"),
    (0, 2): ("at the near left of the table", "in the close left corner", "on the left side, near the robot"),
    (1, 0): ("at the right of the table", "half way out on the right side", "at the right edge, neither near nor far"),
    (1, 1): ("in the middle of the table", "at the centre of the table", "in the very middle"),
    (1, 2): ("at the left of the table", "half way out on the left side", "at the left edge, neither near nor far"),
    (2, 0): ("at the far right of the table", "in the distant right corner", "on the right side, far from the robot"),
    (2, 1): ("at the far edge, in the centre", "in the middle of the distant side", "straight in front of the robot, far away"),
    (2, 2): ("at the far left of the table", "in the distant left corner", "on the left side, far from the robot"),
}  # fmt: skip
AIR = ("in the air", "high above the table", "lifted up")
FIXTURE_SENTENCES = (
    "the {thing} is {state}",
    "{thing} {state}",
    "we want the {thing} {state}",
    "make sure the {thing} is {state}",
    "bring the {thing} to where it is {state}",
    "leave the {thing} {state}",
)
FIXTURE_LAST = "the {thing} should be {state}"


def describe(observations: Mapping[str, np.ndarray]) -> list[Caption]:
    """Captions of each cube, in the scene of drawer, window and buttons, in a puzzle of each button.

    Args:
        observations: columns of `Manipulation`, (N, C).
    """
    if "cubes" not in observations:
        return _of_buttons(np.asarray(observations["buttons"]) > 0.5)
    cubes = np.asarray(observations["cubes"])
    cubes = cubes.reshape(len(cubes), -1, 3)
    names = ["cube"] if cubes.shape[1] == 1 else [f"{colour} cube" for colour in COLOURS[: cubes.shape[1]]]
    captions = [caption for i, name in enumerate(names) for caption in _of_cube(name, cubes[:, i])]
    if "drawer" not in observations:
        return captions
    is_open = {
        "drawer": np.asarray(observations["drawer"])[:, 0] < DRAWER_OPEN,
        "window": np.asarray(observations["window"])[:, 0] > WINDOW_OPEN,
    }
    for thing, true in is_open.items():
        captions += [_of_fixture(thing, ("open",), true), _of_fixture(thing, ("closed", "shut"), ~true)]
    for number, thing in enumerate(("drawer", "window")):
        unlocked = np.asarray(observations["buttons"])[:, number] > 0.5
        captions += [_of_fixture(thing, ("unlocked",), unlocked), _of_fixture(thing, ("locked",), ~unlocked)]
    return captions


def _of_buttons(on: np.ndarray) -> list[Caption]:
    """Captions of the buttons of a puzzle, (N, B)."""
    captions = []
    for number, true in enumerate(on.T, 1):
        name = f"button number {number}"
        captions += [_of_fixture(name, ("blue", "on"), true), _of_fixture(name, ("red", "off"), ~true)]
    return captions


def _of_cube(name: str, cube: np.ndarray) -> list[Caption]:
    """Captions of the place of one cube, (N, 3), and of whether it is in the air."""
    x, y, z = cube.T
    row, column = np.digitize(x, (NEAR, FAR)), np.digitize(y, (RIGHT, LEFT))
    on_table = z < LIES
    captions = [Caption(_wordings(CUBE_SENTENCES, CUBE_LAST, AIR, "place", cube=name), z > HELD)]
    for (i, j), places in PLACES.items():
        wordings = _wordings(CUBE_SENTENCES, CUBE_LAST, places, "place", cube=name)
        captions.append(Caption(wordings, on_table & (row == i) & (column == j)))
    return captions


def _of_fixture(thing: str, states: Sequence[str], true: np.ndarray) -> Caption:
    return Caption(_wordings(FIXTURE_SENTENCES, FIXTURE_LAST, states, "state", thing=thing), true)


def _wordings(sentences: Sequence[str], last: str, words: Sequence[str], key: str, **given: str) -> list[str]:
    """Every sentence with each of the words, then the held-out sentence with the first word."""
    wordings = [sentence.format(**given, **{key: word}) for word in words for sentence in sentences]
    return [*wordings, last.format(**given, **{key: words[0]})]
