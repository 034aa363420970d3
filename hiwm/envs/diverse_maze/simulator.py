"""The point mass of Gymnasium-Robotics' PointMaze, simulated by MuJoCo.

A ball of radius 0.1 cells, which two motors push along x and y. Walls stop it without friction. Source: `point.xml` and `maze_v4.py` of
Gymnasium-Robotics; here the simulator keeps no state between calls, so the environments of a process share it; threads must not.
`condim="1"` leaves friction out.
"""

from __future__ import annotations

import functools
from typing import Any

import mujoco as _mujoco
import numpy as np

mujoco: Any = _mujoco  # its module has no types

RADIUS = 0.1  # of the ball, cells
WALL_HEIGHT = 0.4
MOST_SPEED = 5.0  # along an axis, cells/s
SIMULATED_SECONDS, ACTION_REPEAT = 0.01, 4  # of a simulated step, and how many a step of the environment has
STEP_SECONDS = ACTION_REPEAT * SIMULATED_SECONDS

XML = """
<mujoco>
  <compiler inertiafromgeom="true"/>
  <option timestep="{seconds}" gravity="0 0 0" iterations="20" integrator="Euler"/>
  <default>
    <joint type="slide" damping="1"/>
    <geom friction=".5 .1 .1" density="1000" margin="0.002" condim="1" contype="2" conaffinity="1"/>
    <motor ctrlrange="-1 1" ctrllimited="true" gear="100"/>
  </default>
  <worldbody>
    <body>
      <geom type="sphere" size="{radius}" contype="1"/>
      <joint name="x" axis="1 0 0"/>
      <joint name="y" axis="0 1 0"/>
    </body>
    {walls}
  </worldbody>
  <actuator><motor joint="x"/><motor joint="y"/></actuator>
</mujoco>
"""
WALL = '<geom type="box" pos="{x} {y} {z}" size="0.5 0.5 {z}" contype="1" conaffinity="1"/>'


class Simulator:
    """Steps of a ball in one maze.

    Args:
        walls: the maze, (rows, columns); true for a wall.
    """

    def __init__(self, walls: np.ndarray) -> None:
        cells = [WALL.format(x=i + 0.5, y=j + 0.5, z=WALL_HEIGHT / 2) for j, i in np.argwhere(walls)]
        self.model = mujoco.MjModel.from_xml_string(
            XML.format(seconds=SIMULATED_SECONDS, radius=RADIUS, walls="".join(cells))
        )
        self.data = mujoco.MjData(self.model)

    def step(self, position: np.ndarray, velocity: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position in cells (2,), velocity in cells/s (2,) and action in [-1, 1]^2 -> position and velocity 0.04 s later."""
        data = self.data
        data.qpos[:], data.qvel[:], data.ctrl[:] = position, velocity, action
        data.qacc_warmstart[:] = 0.0  # or the result would depend on the call before
        for _ in range(ACTION_REPEAT):
            data.qvel[:] = np.clip(data.qvel, -MOST_SPEED, MOST_SPEED)
            mujoco.mj_step(self.model, data)
        return data.qpos.copy(), data.qvel.copy()


def simulator(walls: np.ndarray) -> Simulator:
    """The simulator of a square maze, (side, side); true for a wall."""
    return _simulator(walls.tobytes(), len(walls))


@functools.cache
def _simulator(walls: bytes, side: int) -> Simulator:
    return Simulator(np.frombuffer(walls, bool).reshape(side, side))
