"""Mazes and evaluation tasks in a versioned file. `python -m hiwm.envs.diverse_maze.tasks` made it.

Version v1 has 25 mazes for data and 20 others for tasks, and 200 tasks in each of three bins, by the cells of the shortest path: 5 to 8, 9
to 12 and 13 to 16. Task e of a bin is in maze e modulo 20. As in the protocol (`maps.py` has the source), the start is a state of 50 random episodes in the
maze, at rest, and the goal is a point in the middle half of a random cell of the bin. Where there is none, it is the farthest cell: 80 of the 200 tasks of the last bin, with
paths of 9 to 12 cells, and one of the second bin. The protocol has 40 tasks in each bin.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from hiwm.envs.diverse_maze.maps import SIDE, cell_distances, draw_maps
from hiwm.envs.diverse_maze.simulator import simulator

TRAINING_MAPS, TASK_MAPS = 25, 20
BINS = ((5, 8), (9, 12), (13, 16))  # cells from start to goal
EPISODES = 200
PROBES, PROBE_STEPS = 50, 100  # random episodes that the starts are drawn from
FIRST_NOISE = 0.25  # of a start of the data around the middle of its cell, cells
GOAL_NOISE = 0.25  # of a goal around the middle of its cell, cells
FIRST_SPEED = 5.0  # highest at the start of the data, cells/s


@dataclass(frozen=True)
class Version:
    """Mazes and tasks.

    Args:
        maps: all mazes, those of the data first, (M, SIDE, SIDE); true for a wall.
        map_number: maze of each task, (bins, E).
        start, goal: positions, cells, (bins, E, 2).
    """

    maps: np.ndarray
    map_number: np.ndarray
    start: np.ndarray
    goal: np.ndarray


def load_version() -> Version:
    """The shipped version."""
    read = json.loads(files("hiwm.envs.diverse_maze").joinpath("v1.json").read_text())
    maps = np.array([[[cell == "#" for cell in row] for row in rows] for rows in read.pop("maps")])
    return Version(maps, **{name: np.array(values) for name, values in read.items()})


def draw_first(walls: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity at the start of an episode of data, (2,) each."""
    cells = np.argwhere(~walls)
    position = cells[rng.integers(len(cells))][::-1] + 0.5 + rng.uniform(-FIRST_NOISE, FIRST_NOISE, 2)
    return position, FIRST_SPEED * draw_direction(rng)


def draw_direction(rng: np.random.Generator) -> np.ndarray:
    """A vector of uniformly random direction, whose length is uniform in [0, 1], (2,)."""
    angle = rng.uniform(0, 2 * np.pi)
    return rng.uniform() * np.array([np.cos(angle), np.sin(angle)])


def draw_version() -> Version:
    """Draw the version as its file was drawn."""
    maps = draw_maps(TRAINING_MAPS + TASK_MAPS, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    visited = [_probe(walls, rng) for walls in maps[TRAINING_MAPS:]]
    distances = [cell_distances(walls) for walls in maps[TRAINING_MAPS:]]
    numbers = np.arange(EPISODES) % TASK_MAPS
    start, goal = np.zeros((2, len(BINS), EPISODES, 2))
    for b, (least, most) in enumerate(BINS):
        for e, number in enumerate(numbers):
            start[b, e] = np.round(visited[number][rng.integers(len(visited[number]))], 2)
            column, row = np.floor(start[b, e]).astype(int)
            distance = distances[number][row * SIDE + column]
            distance = np.where(np.isfinite(distance), distance, -1)
            there = np.flatnonzero((distance >= least) & (distance <= most))
            if not len(there):
                there = np.flatnonzero(distance == distance.max())
            cell = there[rng.integers(len(there))]
            goal[b, e] = np.round(
                np.array([cell % SIDE, cell // SIDE]) + 0.5 + rng.uniform(-GOAL_NOISE, GOAL_NOISE, 2), 2
            )
    return Version(maps, np.tile(TRAINING_MAPS + numbers, (len(BINS), 1)), start, goal)


def _probe(walls: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions that random episodes visit, (N, 2)."""
    simulated, positions = simulator(walls), []
    for _ in range(PROBES):
        position, velocity = draw_first(walls, rng)
        for _ in range(PROBE_STEPS):
            position, velocity = simulated.step(position, velocity, draw_direction(rng))
            positions.append(position)
    return np.array(positions)


def write_version(path: Path) -> None:
    """Draw the version and write its file."""
    version = draw_version()
    content = {
        "maps": [["".join(".#"[int(cell)] for cell in row) for row in walls] for walls in version.maps],
        "map_number": version.map_number.tolist(),
        "start": version.start.tolist(),
        "goal": version.goal.tolist(),
    }
    path.write_text(json.dumps(content))


if __name__ == "__main__":
    write_version(Path(__file__).with_name("v1.json"))
