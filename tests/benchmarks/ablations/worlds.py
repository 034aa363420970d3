"""Two small worlds in which `experiment=custom` is compared with other settings; see `custom.yaml`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

SPEED, RADIUS = 0.25, 0.4
Box = tuple[tuple[float, float], tuple[float, float]]
EVERYWHERE: Box = ((0, 0), (10, 10))
INSIDE: Box = ((4, 4), (6, 6))


class Open(gymnasium.Env):
    """A point in an empty square room."""

    observation_space = gymnasium.spaces.Box(0, 10, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    #: (left, bottom, width, height)
    walls: tuple[tuple[float, float, float, float], ...] = ()
    #: starts and goals of each task
    tasks: tuple[tuple[Box, Box], ...] = ((EVERYWHERE, EVERYWHERE),)

    @property
    def num_tasks(self) -> int:
        return len(self.tasks)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        task = (options or {}).get("task_id")
        start, goal = (EVERYWHERE, EVERYWHERE) if task is None else self.tasks[task - 1]
        self.position, self.goal = self._draw(start), self._draw(goal)
        return self.position, {"goal": self.goal}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        after = np.clip(self.position + SPEED * np.clip(action, -1, 1), 0, 10).astype(np.float32)
        if self._is_free(after):
            self.position = after
        return self.position, 0.0, False, False, {"success": bool(np.linalg.norm(self.position - self.goal) < RADIUS)}

    def _draw(self, box: Box) -> np.ndarray:
        while True:
            position = self.np_random.uniform(*box).astype(np.float32)
            if self._is_free(position):
                return position

    def _is_free(self, position: np.ndarray) -> bool:
        x, y = position
        return not any(left <= x <= left + w and bottom <= y <= bottom + h for left, bottom, w, h in self.walls)


class UWall(Open):
    """A wall like a U that is open to the left. Out of it to the left, around it to the right, and anywhere."""

    walls = ((2, 7, 5, 0.5), (2, 2.5, 5, 0.5), (7, 2.5, 0.5, 5))
    tasks = ((INSIDE, ((0, 4), (1.5, 6))), (INSIDE, ((8.5, 4), (9.5, 6))), (EVERYWHERE, EVERYWHERE))
