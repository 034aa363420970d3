"""Frames of the rooms: white floor, black walls and two blended Gaussian dots, in vectorised numpy."""

from __future__ import annotations

import numpy as np

from hiwm.envs.rooms.geometry import BORDER, HALF_DOOR, HALF_WALL, RADIUS, Rooms

AGENT, DISTRACTOR = np.array([255.0, 0, 0]), np.array([0, 114.0, 178.0])  # red, and the blue of Okabe and Ito
FRAME = 4.0  # thickness of the outer wall
SUPERSAMPLING = 7  # samples per pixel along each axis, for smooth edges of walls


class Renderer:
    """Draws batches of frames.

    Args:
        rooms: the map.
        resolution: width and height of a frame, pixels.
    """

    def __init__(self, rooms: Rooms, resolution: int) -> None:
        self.rooms = rooms
        self.resolution = resolution
        self.scale = resolution / rooms.size
        #: the empty map of every layout, (L, R, R, 3)
        self.backgrounds = np.stack([self._background(is_open) for is_open in rooms.is_open])
        # four standard deviations; a dot stays further away from the edge of the frame
        reach = int(4 * RADIUS * self.scale)
        patch = np.arange(-reach, reach + 1)
        self._rows, self._columns = (offset.ravel() for offset in np.meshgrid(patch, patch, indexing="ij"))

    def frames(self, agent: np.ndarray, distractor: np.ndarray, layout: np.ndarray) -> np.ndarray:
        """Draw frames, uint8 (N, R, R, 3), from positions (N, 2), (N, 2) and numbers of layouts (N,)."""
        frames = self.backgrounds[layout]
        self._dot(frames, distractor, DISTRACTOR)
        self._dot(frames, agent, AGENT)
        return frames

    def _dot(self, frames: np.ndarray, position: np.ndarray, colour: np.ndarray) -> None:
        """Blend a Gaussian dot into every frame, in place."""
        centre = position * self.scale - 0.5  # in pixels; pixel centres have integer coordinates
        nearest = np.rint(centre).astype(int)
        column, row = nearest[:, :1] + self._columns, nearest[:, 1:] + self._rows  # (N, P)
        square = (column - centre[:, :1]) ** 2 + (row - centre[:, 1:]) ** 2
        share = np.exp(-0.5 * square / (RADIUS * self.scale) ** 2)[..., None]
        which = np.arange(len(frames))[:, None]
        frames[which, row, column] = np.rint((1 - share) * frames[which, row, column] + share * colour)

    def _background(self, is_open: np.ndarray) -> np.ndarray:
        rooms, fine = self.rooms, self.resolution * SUPERSAMPLING
        at = (np.arange(fine) + 0.5) * rooms.size / fine
        x, y = np.meshgrid(at, at)
        wall = np.zeros((fine, fine), bool)
        for middle in rooms.walls:
            wall |= (np.abs(x - middle) <= HALF_WALL) | (np.abs(y - middle) <= HALF_WALL)
        for door in np.flatnonzero(is_open):
            (across, along) = (x, y) if rooms.is_vertical[door] else (y, x)
            centre = rooms.doors[door] if rooms.is_vertical[door] else rooms.doors[door][::-1]
            wall &= ~((np.abs(across - centre[0]) <= HALF_WALL) & (np.abs(along - centre[1]) <= HALF_DOOR))
        edge = np.minimum(np.minimum(x, y), rooms.size - np.maximum(x, y))
        wall = (wall & (edge > BORDER)) | ((edge > BORDER - FRAME) & (edge <= BORDER))
        floor = 1 - wall.reshape(self.resolution, SUPERSAMPLING, self.resolution, SUPERSAMPLING).mean((1, 3))
        return np.repeat(np.rint(255 * floor).astype(np.uint8)[..., None], 3, axis=2)
