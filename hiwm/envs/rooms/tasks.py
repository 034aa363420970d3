"""Evaluation tasks in versioned files, so that results stay comparable. `python -m hiwm.envs.rooms.tasks` made them.

A version has a near and a far bin of 200 episodes each, with fixed starts, goals, closed doors and distractors:

- near: the goal is the position of a noiseless expert after 75 steps (in four rooms) along a path through two doors, as in
  the evaluation of H-JEPA ("cross2, goal 75");
- far: the length of the shortest path to the goal lies between two bounds; in four rooms it mostly crosses three doors.

The distractor has another position in the frame of the goal than at the start.

In version v1, a random door is closed with probability 0.5, in the data and in the tasks. Version unseen-v1, for 4 x 4 rooms,
has 150 layouts with two to four closed doors, in each of which every room can be reached. Data are collected in 50 of them, and the
tasks are in the other 100.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from hiwm.envs.rooms.geometry import Rooms, check_side

EPISODES = 200
CLOSED_SHARE = 0.5  # of the episodes of version v1
VERSIONS = (("v1", 2), ("v1", 4), ("unseen-v1", 4))  # and rooms per side
LAYOUTS = {"train": 50, "test": 100}  # of version unseen-v1
CLOSED_DOORS = (2, 4)  # fewest and most in its layouts
ARRAYS = ("start", "goal", "layout", "distractor", "heading", "goal_distractor")  # of a task
SPEED = 2.5  # of agent and distractor, world pixels per step


@dataclass(frozen=True)
class Bin:
    """Distribution of the tasks of a bin.

    Args:
        name: name of the bin.
        budget: maximum steps of an episode.
        steps: steps of the expert from start to goal; 0: the goal is drawn at random.
        doors: number of doors that the path crosses; 0: any number.
        length: minimum and maximum length of the path, world pixels.
    """

    name: str
    budget: int
    steps: int = 0
    doors: int = 0
    length: tuple[float, float] = (0.0, np.inf)


BINS = {
    2: (Bin("near", budget=210, steps=75, doors=2), Bin("far", budget=300, length=(224, 309))),
    4: (Bin("near", budget=300, steps=120, doors=3), Bin("far", budget=800, length=(500, 800))),
}


@dataclass(frozen=True)
class Task:
    """The episodes of a bin.

    Args:
        name: name of the bin.
        budget: maximum steps of an episode.
        start, goal: start and goal of the agent, (E, 2).
        layout: number of the layout, (E,).
        distractor: start of the distractor, (E, 2).
        heading: first heading of the distractor, radians, (E,).
        goal_distractor: position of the distractor in the frame of the goal, (E, 2).
    """

    name: str
    budget: int
    start: np.ndarray
    goal: np.ndarray
    layout: np.ndarray
    distractor: np.ndarray
    heading: np.ndarray
    goal_distractor: np.ndarray

    @property
    def num_episodes(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Version:
    """Layouts and tasks.

    Args:
        layouts: closed doors of every layout, (L, K); None: those of `Rooms`, of which `draw_closed` draws one.
        training: data are collected in this many layouts, the first ones; None without `layouts`.
        tasks: the bins.
    """

    layouts: np.ndarray | None
    training: int | None
    tasks: list[Task]

    def draw_layout(self, num_doors: int, rng: np.random.Generator) -> int:
        """Number of a layout for an episode of data."""
        return draw_closed(num_doors, rng) if self.training is None else int(rng.integers(self.training))


def draw_closed(num_doors: int, rng: np.random.Generator) -> int:
    """Number of the layout of version v1 in which a random door is closed, or 0: none."""
    return int(rng.integers(num_doors)) + 1 if rng.random() < CLOSED_SHARE else 0


def expert(rooms: Rooms, agent: np.ndarray, goal: np.ndarray, layout: np.ndarray) -> np.ndarray:
    """Unit vectors along the shortest path from agent to goal, (N, 2), (N, 2), layouts (N,) -> (N, 2)."""
    _, door, _ = rooms.shortest(agent, goal, layout)
    direction = np.where((door < 0)[:, None], goal, rooms.beyond(np.maximum(door, 0), agent)) - agent
    return direction / (np.linalg.norm(direction, axis=1, keepdims=True) + 1e-6)


def _check(version: str, side: int) -> None:
    check_side(side)
    if (version, side) not in VERSIONS:
        found = ", ".join(known for known, of in VERSIONS if of == side)
        raise ValueError(f"tasks is {version!r}; expected a version for {side} x {side} rooms: {found}")


def load_version(version: str, side: int) -> Version:
    """Layouts and bins of a version for a map of `side` x `side` rooms.

    Raises:
        ValueError: there is no such version for this map.
    """
    _check(version, side)
    name = f"tasks-{version}-{side}x{side}.json"
    read: dict[str, Any] = json.loads(files("hiwm.envs.rooms").joinpath(name).read_text())
    layouts = None if read["layouts"] is None else np.array(read["layouts"], bool)
    tasks = [Task(e["name"], e["budget"], **{key: np.array(e[key]) for key in ARRAYS}) for e in read["tasks"]]
    return Version(layouts, read["training"], tasks)


def draw_tasks(rooms: Rooms, bin_: Bin, rng: np.random.Generator, layouts: Sequence[int] | None = None) -> Task:
    """Draw the episodes of a bin by rejection sampling.

    Args:
        rooms: the map.
        bin_: what the episodes have in common.
        rng: random numbers.
        layouts: of the episodes, in turn; None: `draw_closed` draws them.
    """
    kept: dict[str, list] = {key: [] for key in ARRAYS}
    while len(kept["start"]) < EPISODES:
        number = layouts[len(kept["start"]) % len(layouts)] if layouts else draw_closed(rooms.num_doors, rng)
        layout = np.array([number])
        start, goal = (np.round(rooms.draw_free(rng), 1)[None] for _ in range(2))
        if bin_.steps:
            if rooms.shortest(start, goal, layout)[0] < SPEED * bin_.steps:
                continue
            agent = start
            for _ in range(bin_.steps):
                agent = rooms.move(agent, SPEED * expert(rooms, agent, goal, layout), layout)
            goal = np.round(agent, 1)
        length, _, doors = rooms.shortest(start, goal, layout)
        if not (
            bin_.length[0] <= length[0] <= bin_.length[1] and bin_.doors in (0, doors[0]) and rooms.is_free(goal)[0]
        ):
            continue
        distractor, elsewhere = (np.round(rooms.draw_free(rng), 1) for _ in range(2))
        values = (start[0], goal[0], number, distractor, np.round(rng.uniform(0, 2 * np.pi), 3), elsewhere)
        for key, value in zip(kept, values, strict=True):
            kept[key].append(value)
    return Task(bin_.name, bin_.budget, **{key: np.array(values) for key, values in kept.items()})


def draw_layouts(side: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Different layouts with as many closed doors as `CLOSED_DOORS` says, and a path between any two rooms, (L, K)."""
    num_doors = Rooms(side).num_doors
    found: dict[bytes, np.ndarray] = {}
    while len(found) < number:
        closed = np.zeros(num_doors, bool)
        closed[rng.choice(num_doors, rng.integers(CLOSED_DOORS[0], CLOSED_DOORS[1] + 1), replace=False)] = True
        if Rooms(side, closed[None]).is_connected(0):
            found[closed.tobytes()] = closed
    return np.stack(list(found.values()))


def draw_version(version: str, side: int) -> Version:
    """Draw a version as its file in this folder was drawn.

    Raises:
        ValueError: there is no such version for this map.
    """
    _check(version, side)
    layouts, tested = None, None
    if version == "unseen-v1":
        layouts = draw_layouts(side, sum(LAYOUTS.values()), np.random.default_rng(side))
        tested = range(LAYOUTS["train"], len(layouts))
    rooms = Rooms(side, layouts)
    tasks = [draw_tasks(rooms, bin_, np.random.default_rng([side, i]), tested) for i, bin_ in enumerate(BINS[side])]
    return Version(layouts, LAYOUTS["train"] if tested else None, tasks)


def write_version(version: str, side: int, folder: Path) -> None:
    """Draw a version and write its file."""
    drawn = asdict(draw_version(version, side))
    content = json.dumps(
        drawn, default=lambda array: (1 * array).tolist()
    )  # 0 and 1 for truth values keep the file short
    (folder / f"tasks-{version}-{side}x{side}.json").write_text(content)


if __name__ == "__main__":
    for version, side in VERSIONS:
        write_version(version, side, Path(__file__).parent)
