"""Captions of the position of the agent: its room, and whether it is in the middle or near a door.

Corners are left out: "the top left room, its bottom right corner" and "the bottom right room, its top left corner"
consist of the same words, and a sentence embedding can hardly separate them.
"""

from __future__ import annotations

import numpy as np

from hiwm.envs.captions import Caption
from hiwm.envs.rooms.geometry import BORDER, PITCH, Rooms

DOOR_REACH = 30.0  # distance from the centre of a door, world pixels
# words for top, bottom, left and right
TRANSLATIONS = (
    {},
    {"top": "upper", "bottom": "lower"},
    {"top": "northern", "bottom": "southern", "left": "western", "right": "eastern"},
)
SENTENCES = (
    "the agent is in the {row} {column} room{spot}",
    "go to the {row} {column} room{spot}",
    "the red dot is in the {column} room of the {row} row{spot}",
    "move into the room at the {row} {column}{spot}",
    "{row} {column} room{spot}",
    "we want to be in the room on the {row} {column}{spot}",
    "find the {row}-{column} room and stay there{spot}",
    "the robot should end in the {row} {column} quarter of the map{spot}",
    "a place in the {column} part of the {row} half of the map{spot}",
    "please walk over to the {row} {column} area{spot}",
    "bring the agent to the room in the {row} {column} corner of the house{spot}",
    "let it stand in the {row} room on the {column} side{spot}",
)
LAST = "reach the {row} {column} chamber{spot}"
NAMES = {
    2: (("top", "bottom"), ("left", "right")),
    4: (("top", "top middle", "bottom middle", "bottom"), ("left", "left middle", "right middle", "right")),
}


def describe(rooms: Rooms, agent: np.ndarray) -> list[Caption]:
    """Captions of the position of the agent, (N, 2): for every room, then its middle and its doors."""
    room = rooms.room_of(agent)
    from_middle = np.abs((agent - BORDER) % PITCH / PITCH - 0.5).max(1)
    captions = []
    for number in range(rooms.side**2):
        row, column = (NAMES[rooms.side][axis][i] for axis, i in enumerate(divmod(number, rooms.side)))
        spots = {"": np.ones(len(agent), bool), ", in its middle": from_middle < 1 / 6}
        for spot, holds in {**spots, **_doors(rooms, number, agent)}.items():
            wordings = [
                _translated(sentence.format(row=row, column=column, spot=spot), words)
                for words in TRANSLATIONS
                for sentence in SENTENCES
            ]
            captions.append(
                Caption([*wordings, LAST.format(row=row, column=column, spot=spot)], (room == number) & holds)
            )
    return captions


def _doors(rooms: Rooms, number: int, agent: np.ndarray) -> dict[str, np.ndarray]:
    """Phrase -> whether the agent is near that door of the room, (N,)."""
    near = np.linalg.norm(agent[:, None] - rooms.doors, axis=2) < DOOR_REACH
    found = {}
    for door in np.flatnonzero((rooms.door_rooms == number).any(1)).tolist():
        first = rooms.door_rooms[door, 0] == number  # the door is on the right of the room, or below it
        side = ("right" if first else "left") if rooms.is_vertical[door] else ("bottom" if first else "top")
        found[f", near its {side} door"] = near[:, door]
    return found


def _translated(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text
