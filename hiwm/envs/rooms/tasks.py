"""Evaluation tasks in versioned files, so that results stay comparable. `python -m hiwm.envs.rooms.tasks` made them.

A version has a near and a far bin of 200 episodes each, with fixed starts, goals, closed doors and distractors:

- near: the goal is the position of a noiseless expert after 75 steps (in four rooms) along a path through two doors, as in
  the evaluation of H-JEPA ("cross2, goal 75");
- far: the length of the shortest path to the goal lies between two bounds; in four rooms it mostly crosses three doors.

The distractor has another position in the frame of the goal than at the start.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from hiwm.envs.rooms.geometry import Rooms

EPISODES = 200
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
        closed: number of the closed door, -1 for none, (E,).
        distractor: start of the distractor, (E, 2).
        heading: first heading of the distractor, radians, (E,).
        goal_distractor: position of the distractor in the frame of the goal, (E, 2).
    """

    name: str
    budget: int
    start: np.ndarray
    goal: np.ndarray
    closed: np.ndarray
    distractor: np.ndarray
    heading: np.ndarray
    goal_distractor: np.ndarray

    @property
    def num_episodes(self) -> int:
        return len(self.start)


def expert(rooms: Rooms, agent: np.ndarray, goal: np.ndarray, closed: np.ndarray) -> np.ndarray:
    """Unit vectors along the shortest path from agent to goal, (N, 2), (N, 2), closed doors (N,) -> (N, 2)."""
    _, door, _ = rooms.shortest(agent, goal, closed)
    direction = np.where((door < 0)[:, None], goal, rooms.beyond(np.maximum(door, 0), agent)) - agent
    return direction / (np.linalg.norm(direction, axis=1, keepdims=True) + 1e-6)


def load_tasks(version: str, side: int) -> list[Task]:
    """The bins of a version for a map of `side` x `side` rooms."""
    folder = files("hiwm.envs.rooms")
    name = f"tasks-{version}-{side}x{side}.json"
    if not folder.joinpath(name).is_file():
        found = sorted(f.name for f in folder.iterdir() if f.name.endswith(f"{side}x{side}.json"))
        raise ValueError(f"tasks is {version!r}, but there is no {name}; expected a version of {', '.join(found)}")
    bins: list[dict[str, Any]] = json.loads(folder.joinpath(name).read_text())
    arrays = ("start", "goal", "closed", "distractor", "heading", "goal_distractor")
    return [Task(e["name"], e["budget"], **{key: np.array(e[key]) for key in arrays}) for e in bins]


def draw_tasks(rooms: Rooms, bin_: Bin, rng: np.random.Generator) -> Task:
    """Draw the episodes of a bin by rejection sampling."""
    kept: dict[str, list] = {key: [] for key in ("start", "goal", "closed", "distractor", "heading", "goal_distractor")}
    while len(kept["start"]) < EPISODES:
        closed = np.array([rng.integers(rooms.num_doors) if rng.random() < 0.5 else -1])
        start, goal = (np.round(rooms.draw_free(rng), 1)[None] for _ in range(2))
        if bin_.steps:
            if rooms.shortest(start, goal, closed)[0] < SPEED * bin_.steps:
                continue
            agent = start
            for _ in range(bin_.steps):
                agent = rooms.move(agent, SPEED * expert(rooms, agent, goal, closed), closed)
            goal = np.round(agent, 1)
        length, _, doors = rooms.shortest(start, goal, closed)
        if not (
            bin_.length[0] <= length[0] <= bin_.length[1] and bin_.doors in (0, doors[0]) and rooms.is_free(goal)[0]
        ):
            continue
        distractor, elsewhere = (np.round(rooms.draw_free(rng), 1) for _ in range(2))
        values = (start[0], goal[0], closed[0], distractor, np.round(rng.uniform(0, 2 * np.pi), 3), elsewhere)
        for key, value in zip(kept, values, strict=True):
            kept[key].append(value)
    return Task(bin_.name, bin_.budget, **{key: np.array(values) for key, values in kept.items()})


def write_tasks(version: str, folder: Path) -> None:
    """Draw the tasks of a new version and write its files."""
    for side, bins in BINS.items():
        rooms = Rooms(side)
        drawn = [asdict(draw_tasks(rooms, bin_, np.random.default_rng([side, i]))) for i, bin_ in enumerate(bins)]
        plain = [{key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in task.items()} for task in drawn]
        (folder / f"tasks-{version}-{side}x{side}.json").write_text(json.dumps(plain))


if __name__ == "__main__":
    write_tasks("v1", Path(__file__).parent)
