"""OGBench's pointmazes, seeded and with the published data-collection recipe.

Source: OGBench (Park et al., ICLR 2025, arXiv 2410.20092), `data_gen_scripts/generate_locomaze.py`: an oracle walks
towards the next cell of the shortest path; `navigate` draws a new goal at every arrival, `stitch` keeps a goal four
cells away, `explore` changes to a random direction every ten steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import ogbench  # noqa: F401  (registers its environments)

from hiwm.envs.generator import lend_generator

Cell = tuple[int, int]
BEHAVIOURS = ("navigate", "stitch", "explore")
STITCH_CELLS = 4  # distance of a goal in the stitch datasets, cells
EXPLORE_STEPS = 10


class PointMaze(gymnasium.Wrapper):
    """One OGBench pointmaze; observations are (x, y) in maze units, a cell being 4 wide.

    `reset(seed)` is exact: OGBench draws its noise from numpy's global generator, which is lent a generator of ours.

    Args:
        maze: medium, large, giant or teleport.
        behaviour: with `navigate`, `stitch` or `explore`, an episode has the starts and goals of that dataset and its
            infos hold the oracle's `expert_action`; None for evaluation.
        through: a cell, [row, column]. In place of the five tasks there is one: its episodes go through a list, in random
            but fixed order, of the starts and goals between which every shortest way leads through that cell and another
            way does not.
        closed: that cell is a wall.
    """

    num_tasks = 5

    def __init__(
        self, *, maze: str, behaviour: str | None = None, through: Sequence[int] | None = None, closed: bool = False
    ) -> None:
        if behaviour is not None and behaviour not in BEHAVIOURS:
            raise ValueError(f"behaviour is {behaviour!r}; allowed: {', '.join(BEHAVIOURS)}")
        if closed and through is None:
            raise ValueError("closed is True and through is None; allowed: with `through`, the cell to close")
        if through is not None and behaviour is not None:
            raise ValueError(f"through is {list(through)} with behaviour {behaviour!r}; allowed: one of the two")
        self.env: Any  # OGBench's own class, made by a function
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
                # the maze draws its walls once, while it is made
                self.env = _walled(type(self.env), door)(maze_type=maze)
        self.behaviour = behaviour
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        free = [(int(i), int(j)) for i, j in np.argwhere(self.env.maze_map == 0)]
        self._free = free
        self._corners = [cell for cell in free if not self._is_hallway(cell)]
        self._oracle: dict[tuple[Cell, Cell], np.ndarray] = {}
        self._random = np.random.RandomState(0)

    @property
    def walls(self) -> list[tuple[float, float, float, float]]:
        """(left, bottom, width, height) of every wall block, in maze units."""
        unit = self.env._maze_unit
        centres = [self.env.ij_to_xy(cell) for cell in np.argwhere(self.env.maze_map == 1)]
        return [(float(x - unit / 2), float(y - unit / 2), unit, unit) for x, y in centres]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        if seed is not None:
            self._random = np.random.RandomState(seed)
            self.env.action_space.seed(seed)
        options = {} if options is None else dict(options)
        if not 1 <= (task := options.get("task_id", 1)) <= self.num_tasks:
            raise ValueError(f"task_id is {task}; allowed: 1 to {self.num_tasks}")
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
            # as the recipe does it: the cell's centre when the maze's own `set_goal` is given a cell, noise included
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
        here, goal = self.env.get_xy(), self.env.cur_goal_xy
        key = (self.env.xy_to_ij(here), self.env.xy_to_ij(goal))
        if key not in self._oracle:  # the maze solves its shortest paths anew at every call
            self._oracle[key] = self.env.get_oracle_subgoal(here, goal)[0]
        direction = self._oracle[key] - here
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
            raise ValueError(f"through is {list(through)}; allowed: [row, column] of a free cell of the maze")
        return door

    def _pairs_through(self, door: Cell) -> list[tuple[Cell, Cell]]:
        """Starts and goals that are further from one another without the door, but not out of reach; shuffled."""
        maze = self.env.maze_map
        cells = [(int(i), int(j)) for i, j in np.argwhere(maze == 0) if (i, j) != door]
        ways = []  # open and closed: start -> distances, -1 where there is no way
        for wall in (0, 1):
            maze[door] = wall
            ways.append({cell: self._distances(cell) for cell in cells})
        maze[door] = 0
        pairs = [(a, b) for a in cells for b in cells if ways[1][a][b] > ways[0][a][b]]
        if not pairs:
            raise ValueError(
                f"through is {list(door)}; allowed: a cell that some shortest way needs and another avoids"
            )
        return [pairs[i] for i in np.random.RandomState(0).permutation(len(pairs))]

    def _distances(self, cell: Cell) -> np.ndarray:
        """Of every cell from one, in cells."""
        centre = self.env.ij_to_xy(cell)
        return self.env.get_oracle_subgoal(centre, centre)[1]

    def _draw(self, cells: list[Cell]) -> Cell:
        return cells[self._random.randint(len(cells))]

    def _is_hallway(self, cell: Cell) -> bool:
        i, j = cell
        maze = self.env.maze_map
        up, down, left, right = maze[i - 1, j], maze[i + 1, j], maze[i, j - 1], maze[i, j + 1]
        return bool((up, down, left, right) in {(0, 0, 1, 1), (1, 1, 0, 0)})


def _walled(maze_class: Any, cell: Cell) -> Any:
    """OGBench's maze class with one more wall block."""

    def update_tree(self: Any, tree: Any) -> None:
        self.maze_map[cell] = 1
        maze_class.update_tree(self, tree)

    return type("WalledMaze", (maze_class,), {"update_tree": update_tree})
