"""What can be said of where the agent is: its room, and a corner, the middle or a door of it."""

from __future__ import annotations

import numpy as np

from hiwm.envs.captions import Caption
from hiwm.envs.rooms.geometry import BORDER, PITCH, Rooms

DOOR_REACH = 30.0  # from a door's centre, world pixels
# words for top, bottom, left and right; those of four rooms a side have a middle too
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
)
LAST = "reach the {row}-{column} chamber{spot}"
NAMES = {
    2: (("top", "bottom"), ("left", "right")),
    4: (("top", "top middle", "bottom middle", "bottom"), ("left", "left middle", "right middle", "right")),
}


def describe(rooms: Rooms, agent: np.ndarray) -> list[Caption]:
    """Captions of where the agent is, (N, 2): every room, then every corner, middle and door of it."""
    room, within = rooms.room_of(agent), (agent - BORDER) % PITCH / PITCH
    captions = []
    for number in range(rooms.side**2):
        row, column = (NAMES[rooms.side][axis][i] for axis, i in enumerate(divmod(number, rooms.side)))
        for spot, holds in {"": np.ones(len(agent), bool), **_spots(within), **_doors(rooms, number, agent)}.items():
            said = [
                _translated(sentence.format(row=row, column=column, spot=spot), words)
                for words in TRANSLATIONS
                for sentence in SENTENCES
            ]
            captions.append(Caption([*said, LAST.format(row=row, column=column, spot=spot)], (room == number) & holds))
    return captions


def _spots(within: np.ndarray) -> dict[str, np.ndarray]:
    """Corners and middle of a room, from the place within it, 0 to 1, (N, 2)."""
    low, high = within < 1 / 3, within > 2 / 3
    left, top, right, bottom = low[:, 0], low[:, 1], high[:, 0], high[:, 1]
    corners = {("top", "left"): top & left, ("top", "right"): top & right}
    corners |= {("bottom", "left"): bottom & left, ("bottom", "right"): bottom & right}
    spots = {f", in its {row} {column} corner": holds for (row, column), holds in corners.items()}
    return {**spots, ", in its middle": ~(low | high).any(1)}


def _doors(rooms: Rooms, number: int, agent: np.ndarray) -> dict[str, np.ndarray]:
    """Near each door of a room."""
    near = np.linalg.norm(agent[:, None] - rooms.doors, axis=2) < DOOR_REACH
    found = {}
    for door in np.flatnonzero((rooms.door_rooms == number).any(1)).tolist():
        first = rooms.door_rooms[door, 0] == number  # the door is to the right of it, or below
        side = ("right" if first else "left") if rooms.is_vertical[door] else ("bottom" if first else "top")
        found[f", near its {side} door"] = near[:, door]
    return found


def _translated(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text
