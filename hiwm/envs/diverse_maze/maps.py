"""Random mazes of 10 x 10 cells, and distances between their cells.

Source: the protocol of Diverse Maze (PLDM, arXiv 2502.14819; HWM, arXiv 2604.03208). The border is wall, and each cell inside is free
with probability 0.5. Twice, free cells with more than six free neighbours of eight become walls. A maze is kept if 50 to 80 % of
the inside is free and all of it is connected by shortest paths of less than 20 cells.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import convolve
from scipy.sparse.csgraph import shortest_path

SIDE = 10  # cells, with the border
FREE_CHANCE = 0.5  # of a cell within the border
PASSES, MOST_FREE_NEIGHBOURS = 2, 6  # of the thinning of open places
FREE_SHARE = (0.5, 0.8)  # of the cells within the border
MOST_CELLS = 20  # bound on the longest shortest path


def draw_map(rng: np.random.Generator) -> np.ndarray:
    """Draw a maze, (SIDE, SIDE), true for a wall; `walls[j, i]` is the cell at x from i to i + 1 and y from j to j + 1."""
    neighbours = np.ones((3, 3), int)
    while True:
        free = np.zeros((SIDE, SIDE), bool)
        free[1:-1, 1:-1] = rng.random((SIDE - 2, SIDE - 2)) < FREE_CHANCE
        for _ in range(PASSES):
            around = convolve(free.astype(int), neighbours, mode="constant") - free
            free &= around <= MOST_FREE_NEIGHBOURS
        if not FREE_SHARE[0] <= free[1:-1, 1:-1].mean() <= FREE_SHARE[1]:
            continue
        if cell_distances(~free)[np.ix_(free.ravel(), free.ravel())].max() < MOST_CELLS:
            return ~free


def draw_maps(number: int, rng: np.random.Generator) -> np.ndarray:
    """Draw different mazes, (number, SIDE, SIDE)."""
    drawn: dict[bytes, np.ndarray] = {}
    while len(drawn) < number:
        walls = draw_map(rng)
        drawn[walls.tobytes()] = walls
    return np.stack(list(drawn.values()))


def cell_distances(walls: np.ndarray) -> np.ndarray:
    """Cells of the shortest path between two cells, numbered row by row, (SIDE^2, SIDE^2); inf where none leads or one is a wall."""
    free = ~walls.ravel()
    number = np.arange(len(free)).reshape(walls.shape)
    edges = np.zeros((len(free), len(free)), bool)
    edges[number[:-1], number[1:]] = edges[number[:, :-1], number[:, 1:]] = True
    return shortest_path(edges & free & free[:, None], directed=False, unweighted=True)
