"""Collisions and shortest paths in rooms on a square grid, with doors between neighbours, some of them closed.

The 2 x 2 map is FourRoom of kevinghst/H-JEPA (arXiv 2610.06805), re-implemented from its definition; the 4 x 4 map has
rooms of the same size. Positions are (x, y) in world pixels; y points down.
"""

from __future__ import annotations

import numpy as np

from hiwm.envs.oracle import Wall

BORDER = 14.0  # empty frame around the map
PITCH = 98.0  # distance between the centre lines of neighbouring walls
HALF_WALL = 5.0
HALF_DOOR = 16.0
RADIUS = 3.5  # of agent and distractor; also the standard deviation of their Gaussian dots
DOOR_MARGIN = 1.75  # a centre this far beyond the edge of a door still passes
REBOUND = 0.5  # distance from a wall after a collision
CLEARANCE = 3.0  # how far beyond a door the expert aims
SIDES = {2: (56.0, 168.0), 4: (63.0, 161.0, 259.0, 357.0)}  # rooms per side -> positions of the doors along a wall


def check_side(side: int) -> None:
    """Refuse a number of rooms per side that no map has.

    Raises:
        ValueError: there is no such map.
    """
    if side not in SIDES:
        raise ValueError(f"side is {side}; expected one of {', '.join(map(str, SIDES))} rooms per side")


class Rooms:
    """A map of `side` x `side` rooms.

    The doors of vertical walls have the first numbers, wall by wall from the left and from top to bottom. Those of
    horizontal walls follow, wall by wall from the top and from left to right.

    Args:
        side: rooms per side, 2 or 4.
        layouts: closed doors of every layout, (L, K); None: layout 0 has none, and layout k + 1 has door k alone.
    """

    def __init__(self, side: int, layouts: np.ndarray | None = None) -> None:
        check_side(side)
        self.side = side
        #: width and height of the world
        self.size = 2 * BORDER + side * PITCH
        #: centre lines of the inner walls
        self.walls = BORDER + PITCH * np.arange(1, side)
        along = SIDES[side]
        vertical = [(wall, at) for wall in self.walls for at in along]
        horizontal = [(at, wall) for wall in self.walls for at in along]
        #: centres of the doors, (K, 2)
        self.doors = np.array(vertical + horizontal)
        self.num_doors = len(self.doors)
        self.is_vertical = np.arange(self.num_doors) < len(vertical)
        #: rooms on both sides of each door, (K, 2)
        reach = np.where(self.is_vertical[:, None], [1.0, 0.0], [0.0, 1.0])
        self.door_rooms = np.stack([self.room_of(self.doors - reach), self.room_of(self.doors + reach)], 1)
        one = np.concatenate([np.zeros((1, self.num_doors), bool), np.eye(self.num_doors, dtype=bool)])
        #: whether each door is open in each layout, (L, K)
        self.is_open = ~(one if layouts is None else np.asarray(layouts, bool))
        tables = [self._all_pairs(is_open) for is_open in self.is_open]
        self._length, self._doors = (np.stack(table) for table in zip(*tables, strict=True))

    def layout_of(self, doors: np.ndarray) -> np.ndarray:
        """Number of the layout with these doors open, (N, K) -> (N,).

        Raises:
            ValueError: no layout of this map has them.
        """
        same = self._codes(doors > 0.5)[:, None] == self._codes(self.is_open)
        if not same.any(1).all():
            raise ValueError(f"doors match none of the {same.shape[1]} layouts of this map; expected one of them")
        return same.argmax(1)

    def _codes(self, is_open: np.ndarray) -> np.ndarray:
        """A number for each set of open doors, (N, K) -> (N,)."""
        return is_open @ (1 << np.arange(self.num_doors))

    def is_connected(self, layout: int) -> bool:
        """Whether a path leads from every open door to every other, and each room has one."""
        is_open = self.is_open[layout]
        reached = np.isfinite(self._length[layout][np.ix_(is_open, is_open)]).all()
        return bool(reached) and len(np.unique(self.door_rooms[is_open])) == self.side**2

    def blocks(self, is_open: np.ndarray | None = None) -> list[Wall]:
        """(left, bottom, width, height) of every piece of wall, for doors that are open or not, (doors,); None: all are open."""
        is_open = np.ones(self.num_doors, bool) if is_open is None else is_open
        blocks = []
        for vertical in (True, False):
            for wall in self.walls:
                across = 0 if vertical else 1
                here = (self.is_vertical == vertical) & (self.doors[:, across] == wall)
                doors = self.doors[here & is_open, 1 - across]
                ends = [BORDER, *np.sort(np.concatenate([doors - HALF_DOOR, doors + HALF_DOOR])), self.size - BORDER]
                for low, high in zip(ends[::2], ends[1::2], strict=True):
                    along, thick = (float(low), float(high - low)), (float(wall) - HALF_WALL, 2 * HALF_WALL)
                    (x, width), (y, height) = (thick, along) if vertical else (along, thick)
                    blocks.append((x, y, width, height))
        return blocks

    def room_of(self, position: np.ndarray) -> np.ndarray:
        """Number of the room at a position, counted row by row, (..., 2) -> (...)."""
        column, row = (np.searchsorted(self.walls, position[..., axis], side="right") for axis in (0, 1))
        return row * self.side + column

    def is_free(self, position: np.ndarray) -> np.ndarray:
        """Whether a centre touches no inner wall, if doors count as wall, (..., 2) -> (...)."""
        gap = np.abs(position[..., None] - self.walls).min(-1)
        return (gap > HALF_WALL + RADIUS).all(-1)

    def draw_free(self, rng: np.random.Generator) -> np.ndarray:
        """A random position that touches no wall, (2,)."""
        while True:
            position = rng.uniform(BORDER + RADIUS, self.size - BORDER - RADIUS, 2)
            if self.is_free(position):
                return position

    def move(self, position: np.ndarray, step: np.ndarray, layout: np.ndarray) -> np.ndarray:
        """Positions after a step, with collisions.

        Args:
            position: (N, 2).
            step: (N, 2).
            layout: number of the layout, (N,).

        Returns:
            New positions, (N, 2).
        """
        after = np.clip(position + step, BORDER + RADIUS, self.size - BORDER - RADIUS)
        for axis in (0, 1):
            for wall in self.walls:
                near = HALF_WALL + RADIUS
                below = position[:, axis] < wall
                into = np.where(below, after[:, axis] > wall - near, after[:, axis] < wall + near)
                blocked = into & ~self._in_door(axis, wall, after[:, 1 - axis], layout)
                back = np.where(below, wall - near - REBOUND, wall + near + REBOUND)
                after[:, axis] = np.where(blocked, back, after[:, axis])
        return after

    def _in_door(self, axis: int, wall: float, along: np.ndarray, layout: np.ndarray) -> np.ndarray:
        doors = np.flatnonzero((self.is_vertical if axis == 0 else ~self.is_vertical) & (self.doors[:, axis] == wall))
        passes = np.abs(along[:, None] - self.doors[doors, 1 - axis]) <= HALF_DOOR + DOOR_MARGIN
        return (passes & self.is_open[layout][:, doors]).any(1)

    def shortest(
        self, start: np.ndarray, goal: np.ndarray, layout: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shortest path through the centres of open doors.

        Args:
            start: (N, 2).
            goal: (N, 2).
            layout: number of the layout, (N,).

        Returns:
            Length of the path (N,); its first door (N,), -1 if start and goal share a room; its number of doors (N,).
        """
        start_room, goal_room = self.room_of(start), self.room_of(goal)
        between, doors = self._length[layout], self._doors[layout]
        through = self._ends(start, start_room)[:, :, None] + between + self._ends(goal, goal_room)[:, None, :]
        best = through.reshape(len(start), -1).argmin(1)
        first, last = np.divmod(best, self.num_doors)
        row = np.arange(len(start))
        same = start_room == goal_room
        length = np.where(same, np.linalg.norm(goal - start, axis=1), through[row, first, last])
        return length, np.where(same, -1, first), np.where(same, 0, doors[row, first, last])

    def beyond(self, door: np.ndarray, position: np.ndarray) -> np.ndarray:
        """A point just beyond the door, on its far side from the position, (N,), (N, 2) -> (N, 2)."""
        axis = np.where(self.is_vertical[door], 0, 1)
        row = np.arange(len(door))
        side = np.where(position[row, axis] < self.doors[door, axis], 1, -1)
        target = self.doors[door].copy()
        target[row, axis] += side * (HALF_WALL + RADIUS + CLEARANCE)
        return target

    def _ends(self, position: np.ndarray, room: np.ndarray) -> np.ndarray:
        """Distance to each door of the room, inf to all other doors, (N, K)."""
        length = np.linalg.norm(position[:, None] - self.doors, axis=2)
        return np.where((self.door_rooms == room[:, None, None]).any(2), length, np.inf)

    def _all_pairs(self, is_open: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Length of the shortest path between any two doors (inf if one is closed) and its number of doors, (K, K) each."""
        shared = (self.door_rooms[:, None, :, None] == self.door_rooms[None, :, None, :]).any((2, 3))
        length = np.where(shared, np.linalg.norm(self.doors[:, None] - self.doors, axis=2), np.inf)
        length[~is_open] = length[:, ~is_open] = np.inf
        doors = 2 - np.eye(self.num_doors, dtype=int)
        for via in range(self.num_doors):  # Floyd-Warshall
            detour = length[:, via, None] + length[None, via]
            doors = np.where(detour < length, doors[:, via, None] + doors[None, via] - 1, doors)
            length = np.minimum(length, detour)
        return length, doors
