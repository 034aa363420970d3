"""What an environment can tell about the truth, for diagnostics: shortest paths, states along them, and the dynamics.

An agent never sees it. `hiwm.analysis` asks for it, and measures less where an environment has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from scipy.spatial import KDTree

Observations = np.ndarray | Mapping[str, np.ndarray]
Wall = tuple[float, float, float, float]

SPACING = 0.5  # of the points from which it is known which corners can be seen, in radii of the agent
NEIGHBOURS = 4  # of these points that say which corners may be seen from a place between them
BLOCK = 2_000_000  # comparisons at once
SLACK = 0.9  # of the clearance counts as a wall: an agent that is pressed against a wall still sees along it


class Oracle(Protocol):
    """The optional attribute `oracle` of an environment.

    Observations are those of N states, as `step` gives them. Dicts that are given lack colour images; those that are returned have them.
    """

    def shortest_steps(self, start: Observations, goal: Observations) -> np.ndarray:
        """Environment steps of the shortest path from each start to its goal at full speed, inf where there is none, (N,)."""
        ...

    def along(self, start: Observations, goal: Observations, steps: float) -> Observations:
        """Observations after so many steps along the shortest paths; at the goal if it is nearer; all else is as at the start.

        With infinite steps it is the agent at the goal, also where no path leads there.
        """
        ...

    def simulate(self, start: Observations, actions: np.ndarray) -> Observations:
        """Observations after the actions (N, T, A) of the environment."""
        ...


def columns_of(observations: Observations) -> Mapping[str, np.ndarray]:
    """The columns of observations that are dicts."""
    assert isinstance(observations, Mapping), "the environment's observations are dicts"
    return observations


class ShortestPaths:
    """Shortest paths of a disc among rectangular walls, by a visibility graph.

    Args:
        walls: (left, bottom, width, height) of each wall.
        radius: of the disc.
    """

    def __init__(self, walls: list[Wall], radius: float) -> None:
        blocks = np.array(_merged(walls), float).reshape(-1, 4)
        self.low, self.high = blocks[:, :2] - radius, blocks[:, :2] + blocks[:, 2:] + radius
        self.margin = (1 - SLACK) * radius
        self.corners = self._corners(1e-3 * radius)
        points = self._free_points(SPACING * radius)
        self.near = KDTree(points)
        starts, ends = np.repeat(points, len(self.corners), 0), np.tile(self.corners, (len(points), 1))
        #: which corners can be seen from each of the points, (P, C)
        self.seen = self.sees(starts, ends).reshape(len(points), -1)
        #: distance of two corners that see each other, inf for others, (C, C)
        self.edges = self._edges()
        #: length of the shortest path between two corners, (C, C)
        self.between = self._all_pairs()

    def sees(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Whether no wall is on the straight line, (N, 2), (N, 2) -> (N,)."""
        step = max(1, BLOCK // max(1, len(self.low)))
        parts = [self._clear(start[i : i + step], end[i : i + step]) for i in range(0, len(start), step)]
        return np.concatenate(parts) if parts else np.zeros(0, bool)

    def _clear(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        enter, leave = np.zeros((len(start), len(self.low))), np.ones((len(start), len(self.low)))
        for axis in (0, 1):
            x, d = start[:, axis, None], (end - start)[:, axis, None]
            low, high = self.low[:, axis] + self.margin, self.high[:, axis] - self.margin
            still = np.abs(d) < 1e-12
            d = np.where(still, 1.0, d)
            first, last = np.minimum((low - x) / d, (high - x) / d), np.maximum((low - x) / d, (high - x) / d)
            within = (x > low) & (x < high)
            enter = np.maximum(enter, np.where(still, np.where(within, 0.0, np.inf), first))
            leave = np.minimum(leave, np.where(still, np.where(within, 1.0, -np.inf), last))
        return ~np.any(enter < leave, axis=1)

    def lengths(self, start: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Length of the shortest path, (N, 2), (N, 2) -> (N,), inf where there is none."""
        goal = np.asarray(goal, float)
        return self._first(np.asarray(start, float), goal, self._from_corners(goal))[0]

    def along(self, start: np.ndarray, goal: np.ndarray, length: float) -> np.ndarray:
        """The point after this length of the shortest path, (N, 2); the start where there is no path."""
        goal = np.asarray(goal, float)
        if not np.isfinite(length):
            return goal.copy()
        at, left = np.array(start, float), np.full(len(start), float(length))
        onwards = self._from_corners(goal)
        rows = np.arange(len(at))
        for _ in range(len(self.corners) + 1):
            total, waypoint = self._first(at[rows], goal[rows], onwards[rows])
            go = np.isfinite(total) & (total > 1e-9)
            rows, way = rows[go], (waypoint - at[rows])[go]
            distance = np.linalg.norm(way, axis=1)
            moved = np.minimum(left[rows], distance)
            at[rows] += way * (moved / np.maximum(distance, 1e-12))[:, None]
            left[rows] -= moved
            rows = rows[left[rows] > 1e-9]
            if not len(rows):
                break
        return at

    def push_out(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2), moved out of the walls to the nearest side."""
        points = points.astype(float).copy()
        for _ in range(2):  # a corner between two blocks takes two
            inside = (points[:, None] > self.low) & (points[:, None] < self.high)
            rows, block = np.nonzero(inside.all(-1))
            if not len(rows):
                break
            rows, first = np.unique(rows, return_index=True)
            block = block[first]
            gaps = np.stack([points[rows] - self.low[block], self.high[block] - points[rows]], 1)  # (n, side, axis)
            side, axis = np.divmod(gaps.reshape(len(rows), -1).argmin(1), 2)
            points[rows, axis] = np.where(side == 0, self.low[block, axis], self.high[block, axis])
        return points

    def _first(self, start: np.ndarray, goal: np.ndarray, onwards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Length of the shortest path, (N,), and its first corner, or the goal, (N, 2); `onwards` from every corner to the goal."""
        starts, which = np.unique(start, axis=0, return_inverse=True)
        through = self._to_corners(starts)[which.ravel()] + onwards
        corner = through.argmin(1)
        length = through[np.arange(len(start)), corner]
        straight = np.linalg.norm(goal - start, axis=1)
        direct = straight < length
        direct[direct] = self.sees(start[direct], goal[direct])
        return np.where(direct, straight, length), np.where(direct[:, None], goal, self.corners[corner])

    def _from_corners(self, goal: np.ndarray) -> np.ndarray:
        """Length of the shortest path from every corner to each goal, (N, 2) -> (N, C)."""
        goals, which = np.unique(goal, axis=0, return_inverse=True)
        last = self._to_corners(goals)
        number = max(1, int(np.isfinite(last).sum(1).max(initial=1)))  # corners that a goal sees
        seen = np.argpartition(last, number - 1, axis=1)[:, :number]
        step = max(1, BLOCK // (len(self.corners) * number))
        parts = [
            (self.between[:, seen[i : i + step]] + np.take_along_axis(last[i : i + step], seen[i : i + step], 1))
            .min(2)
            .T
            for i in range(0, len(goals), step)
        ]
        return np.concatenate(parts)[which.ravel()] if parts else np.zeros((0, len(self.corners)))

    def _to_corners(self, points: np.ndarray) -> np.ndarray:
        """Distance to every corner that can be seen, inf to the others, (N, C)."""
        distance = np.linalg.norm(points[:, None] - self.corners, axis=2)
        likely = self.seen[self.near.query(points, min(NEIGHBOURS, self.near.n))[1].reshape(len(points), -1)].any(1)
        found = np.full(distance.shape, np.inf)
        point, corner = np.nonzero(likely)
        clear = self.sees(points[point], self.corners[corner])
        found[point[clear], corner[clear]] = distance[point[clear], corner[clear]]
        point, corner = np.nonzero(distance < 1e-6)
        found[point] = self.edges[corner]  # what can be seen from a corner is known exactly
        return found

    def _inside(self, points: np.ndarray) -> np.ndarray:
        parts = []
        for block in np.array_split(points, 1 + len(points) * len(self.low) // BLOCK):
            parts.append(np.any(np.all((block[:, None] > self.low) & (block[:, None] < self.high), axis=-1), axis=1))
        return np.concatenate(parts)

    def _corners(self, little: float) -> np.ndarray:
        """Convex corners of the walls together, a little outside of them, (C, 2)."""
        found = []
        for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            away = little * np.array([x, y])
            corner = np.where(np.array([x, y]) < 0, self.low, self.high)
            free = ~self._inside(corner + away) & ~self._inside(corner + away * [1, -1])
            found.append((corner + away)[free & ~self._inside(corner + away * [-1, 1])])
        corners = np.unique(np.concatenate(found).round(6), axis=0)
        return corners if len(corners) else self.high.max(0, keepdims=True) + 1

    def _free_points(self, spacing: float) -> np.ndarray:
        axes = [np.arange(a + spacing / 2, b, spacing) for a, b in zip(self.low.min(0), self.high.max(0), strict=True)]
        points = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
        return points[~self._inside(points)]

    def _edges(self) -> np.ndarray:
        count = len(self.corners)
        starts, ends = np.repeat(self.corners, count, 0), np.tile(self.corners, (count, 1))
        seen = self.sees(starts, ends).reshape(count, count) & ~np.eye(count, dtype=bool)
        return np.where(seen, np.linalg.norm(self.corners[:, None] - self.corners, axis=2), np.inf)

    def _all_pairs(self) -> np.ndarray:
        length = self.edges.copy()
        np.fill_diagonal(length, 0.0)
        for via in range(len(length)):  # Floyd-Warshall
            length = np.minimum(length, length[:, via, None] + length[None, via])
        return length


def _merged(walls: list[Wall]) -> list[Wall]:
    """Walls, with those side by side in a row joined to one."""
    joined: list[Wall] = []
    for left, bottom, width, height in sorted(walls, key=lambda wall: (wall[1], wall[3], wall[0])):
        if joined:
            x, y, w, h = joined[-1]
            if (y, h) == (bottom, height) and abs(x + w - left) < 1e-9:
                joined[-1] = (x, y, w + width, h)
                continue
        joined.append((left, bottom, width, height))
    return joined
