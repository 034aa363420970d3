"""OGBench's pointmazes: seeded, with the published data-collection recipe.

Source: OGBench (Park et al., ICLR 2025, arXiv 2410.20092), `data_gen_scripts/generate_locomaze.py`. An oracle walks
towards the next cell of the shortest path. `navigate` draws a new goal at every arrival, `stitch` keeps one goal four
cells away, and `explore` draws a random direction every ten steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
import ogbench  # noqa: F401  (registers its environments)

from hiwm.envs.generator import lend_generator
from hiwm.envs.oracle import Observations, ShortestPaths, Wall

Cell = tuple[int, int]
BEHAVIOURS = ("navigate", "stitch", "explore")
STITCH_CELLS = 4  # distance from start to goal in the stitch datasets, cells
EXPLORE_STEPS = 10
SPEED = 0.2  # maze units per step of an action of length 1
RADIUS = 0.7  # of the point, a sphere


class PointMaze(gymnasium.Wrapper):
    """One OGBench pointmaze. Observations are (x, y) in maze units; a cell is 4 units wide.

    `reset(seed)` is exact: OGBench draws its noise from the global generator of numpy, which is replaced meanwhile.

    Args:
        maze: medium, large, giant or teleport.
        behaviour: `navigate`, `stitch` or `explore` collects data: starts and goals are those of that dataset, and infos
            hold the `expert_action` of the oracle. None is for evaluation.
        through: a cell, [row, column]. One task then replaces the five. Its episodes are the pairs of start and goal for
            which every shortest path leads through this cell and a longer path avoids it, in a fixed random order.
        closed: whether this cell is a wall.
    """

    num_tasks = 5

    def __init__(
        self, *, maze: str, behaviour: str | None = None, through: Sequence[int] | None = None, closed: bool = False
    ) -> None:
        if behaviour is not None and behaviour not in BEHAVIOURS:
            raise ValueError(f"behaviour is {behaviour!r}; expected null or one of {', '.join(BEHAVIOURS)}")
        if closed and through is None:
            raise ValueError("closed is True and through is None; expected [row, column] of the cell to close")
        if through is not None and behaviour is not None:
            raise ValueError(f"through is {list(through)} and behaviour is {behaviour!r}; expected only one of the two")
        self.env: Any  # OGBench's class, which a function makes
        super().__init__(
            gymnasium.make(
                f"pointmaze-{maze}-v0",
                terminate_at_goal=behaviour is None,
                max_episode_steps=10**9,
                disable_env_checker=True,
            ).unwrapped
        )
        self._pairs: list[tuple[Cell, Cell]] = []
        if through is not None:
            door = self._door(through)
            self._pairs = self._pairs_through(door)
            self.num_tasks = 1
            if closed:
                # the maze builds its walls only in its constructor
                self.env = _walled(type(self.env), door)(maze_type=maze)
        self.behaviour = behaviour
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        free = [(int(i), int(j)) for i, j in np.argwhere(self.env.maze_map == 0)]
        self._free = free
        self._corners = [cell for cell in free if not self._is_hallway(cell)]
        self._oracle: dict[tuple[Cell, Cell], np.ndarray] = {}
        self._random = np.random.RandomState(0)

    @property
    def walls(self) -> list[Wall]:
        """(left, bottom, width, height) of every wall block, in maze units."""
        unit = self.env._maze_unit
        centres = [self.env.ij_to_xy(cell) for cell in np.argwhere(self.env.maze_map == 1)]
        return [(float(x - unit / 2), float(y - unit / 2), unit, unit) for x, y in centres]

    @cached_property
    def oracle(self) -> PointMazeOracle | None:
        """What is true of the maze; None with teleporters, whose exits are random."""
        return None if self.env._teleport_info is not None else PointMazeOracle(ShortestPaths(self.walls, RADIUS))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        if seed is not None:
            self._random = np.random.RandomState(seed)
            self.env.action_space.seed(seed)
        options = {} if options is None else dict(options)
        if not 1 <= (task := options.get("task_id", 1)) <= self.num_tasks:
            raise ValueError(f"task_id is {task}; expected 1 to {self.num_tasks}")
        chosen = None
        if self.behaviour is not None:
            chosen = self._start_and_goal()
        elif self._pairs:
            chosen = self._pairs[options.get("episode", 0) % len(self._pairs)]
        if chosen is not None:
            options = {"task_info": dict(zip(("init_ij", "goal_ij"), chosen, strict=True))}
        with lend_generator(self._random):
            observation, info = self.env.reset(seed=seed, options=options)
        self._step = 0
        return observation, {"goal": info["goal"]} | self._expert()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        lend = self.env._teleport_info is not None  # only teleporters draw random numbers in a step
        with lend_generator(self._random) if lend else contextlib.nullcontext():
            observation, reward, terminated, truncated, info = self.env.step(action)
        self._step += 1
        if info["success"] and self.behaviour == "navigate":
            # as in the recipe, where `set_goal` is given a cell: its centre, with noise
            goal = self.env.ij_to_xy(self._draw(self._corners))
            with lend_generator(self._random):
                self.env.set_goal(goal_xy=self.env.add_noise(goal))
        return observation, reward, terminated, truncated, {"success": info["success"]} | self._expert()

    def _expert(self) -> dict[str, np.ndarray]:
        if self.behaviour is None:
            return {}
        if self.behaviour == "explore":
            if self._step % EXPLORE_STEPS == 0:
                angle = self._random.uniform(0, 2 * np.pi)
                self._direction = np.array([np.cos(angle), np.sin(angle)])
            return {"expert_action": self._direction}
        position, goal = self.env.get_xy(), self.env.cur_goal_xy
        key = (self.env.xy_to_ij(position), self.env.xy_to_ij(goal))
        if key not in self._oracle:  # cached, because the maze solves its shortest paths at every call
            self._oracle[key] = self.env.get_oracle_subgoal(position, goal)[0]
        direction = self._oracle[key] - position
        return {"expert_action": direction / (np.linalg.norm(direction) + 1e-6)}

    def _start_and_goal(self) -> tuple[Cell, Cell]:
        start = self._draw(self._free)
        if self.behaviour != "stitch":
            return start, self._draw(self._corners)
        distances = self._distances(start)
        near = [cell for cell in self._free if distances[cell] == STITCH_CELLS]
        return start, self._draw(near or self._free)

    def _door(self, through: Sequence[int]) -> Cell:
        maze = self.env.maze_map
        door = tuple(through)
        if len(door) != 2 or not all(0 <= x < n for x, n in zip(door, maze.shape, strict=True)) or maze[door] != 0:
            raise ValueError(f"through is {list(through)}; expected [row, column] of a free cell of the maze")
        return door

    def _pairs_through(self, door: Cell) -> list[tuple[Cell, Cell]]:
        """Pairs of start and goal whose shortest path gets longer when the door is closed, in random order."""
        maze = self.env.maze_map
        cells = [(int(i), int(j)) for i, j in np.argwhere(maze == 0) if (i, j) != door]
        distances = []  # with the door open, then closed: start -> distances, -1 where no path exists
        for wall in (0, 1):
            maze[door] = wall
            distances.append({cell: self._distances(cell) for cell in cells})
        maze[door] = 0
        pairs = [(a, b) for a in cells for b in cells if distances[1][a][b] > distances[0][a][b]]
        if not pairs:
            raise ValueError(
                f"through is {list(door)}; expected a cell that some shortest path needs and a longer path avoids"
            )
        return [pairs[i] for i in np.random.RandomState(0).permutation(len(pairs))]

    def _distances(self, cell: Cell) -> np.ndarray:
        """Distance from one cell to every cell, in cells."""
        centre = self.env.ij_to_xy(cell)
        return self.env.get_oracle_subgoal(centre, centre)[1]

    def _draw(self, cells: list[Cell]) -> Cell:
        return cells[self._random.randint(len(cells))]

    def _is_hallway(self, cell: Cell) -> bool:
        i, j = cell
        maze = self.env.maze_map
        up, down, left, right = maze[i - 1, j], maze[i + 1, j], maze[i, j - 1], maze[i, j + 1]
        return bool((up, down, left, right) in {(0, 0, 1, 1), (1, 1, 0, 0)})


class PointMazeOracle:
    """The truth about a maze without teleporters; see `hiwm.envs.oracle`.

    Args:
        paths: shortest paths among the walls.
    """

    def __init__(self, paths: ShortestPaths) -> None:
        self.paths = paths

    def shortest_steps(self, start: Observations, goal: Observations) -> np.ndarray:
        """At the speed of an action of length 1, which is that of the oracle in the data."""
        return self.paths.lengths(np.asarray(start), np.asarray(goal)) / SPEED

    def along(self, start: Observations, goal: Observations, steps: float) -> np.ndarray:
        return self.paths.along(np.asarray(start), np.asarray(goal), SPEED * steps).astype(np.float32)

    def simulate(self, start: Observations, actions: np.ndarray) -> np.ndarray:
        """MuJoCo moves the point and pushes it out of walls; here it is pushed out at once."""
        position = np.asarray(start, float)
        for action in np.moveaxis(np.clip(actions, -1, 1), 1, 0):
            position = self.paths.push_out(position + SPEED * action)
        return position.astype(np.float32)


def _walled(maze_class: Any, cell: Cell) -> Any:
    """OGBench's maze class with one additional wall block."""

    def update_tree(self: Any, tree: Any) -> None:
        self.maze_map[cell] = 1
        maze_class.update_tree(self, tree)

    return type("WalledMaze", (maze_class,), {"update_tree": update_tree})
