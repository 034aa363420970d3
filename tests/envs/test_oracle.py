"""The truth that oracles tell, against geometry and against the environments themselves."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from hiwm.envs.oracle import ShortestPaths
from hiwm.envs.pointmaze import SPEED, PointMaze
from hiwm.envs.rooms.env import FourRoom, FourRoomVector

BLOCK = (-1.0, -1.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def maze():
    return PointMaze(maze="medium")


def test_a_path_bends_around_the_corners_of_a_wall():
    paths = ShortestPaths([BLOCK, (-9, -9, 18, 0.1), (-9, 9, 18, 0.1), (-9, -9, 0.1, 18), (9, -9, 0.1, 18)], 0.5)
    start, goal = np.array([[-3.0, 0], [-3, 3], [0, 2]]), np.array([[3.0, 0], [3, 3], [0, 2]])
    corner = 2 * np.hypot(1.5, 1.5) + 3
    assert paths.lengths(start, goal) == pytest.approx([corner, 6, 0], abs=0.01)
    assert paths.lengths(goal, start) == pytest.approx([corner, 6, 0], abs=0.01)
    half = paths.along(start, goal, corner / 2)
    assert abs(half[0, 1]) == pytest.approx(1.5, abs=0.01)  # beside the wall, half way
    assert half[0, 0] == pytest.approx(0, abs=0.01)
    assert paths.along(start, goal, 100) == pytest.approx(goal, abs=0.01)
    assert (paths.along(start, goal, np.inf) == goal).all()


def test_walls_side_by_side_leave_no_gap():
    row = [(float(x), -0.5, 1.0, 1.0) for x in range(-5, 5)]
    paths = ShortestPaths([*row, (-9, -9, 18, 0.1), (-9, 9, 18, 0.1), (-9, -9, 0.1, 18), (9, -9, 0.1, 18)], 0.2)
    length = paths.lengths(np.array([[0.0, -2]]), np.array([[0.0, 2]]))
    around = 2 * np.hypot(5.2, 1.3) + 1.4
    assert length == pytest.approx(around, abs=0.02)


def test_there_is_no_path_into_a_closed_room():
    closed = [(-2, -2, 4, 0.5), (-2, 1.5, 4, 0.5), (-2, -2, 0.5, 4), (1.5, -2, 0.5, 4)]
    paths = ShortestPaths([*closed, (-9, -9, 18, 0.1), (-9, 9, 18, 0.1), (-9, -9, 0.1, 18), (9, -9, 0.1, 18)], 0.2)
    start, goal = np.array([[-4.0, 0]]), np.array([[0.0, 0]])
    assert np.isinf(paths.lengths(start, goal)).all()
    assert (paths.along(start, goal, 1) == start).all()


@pytest.mark.parametrize("task", [1, 3, 5])
def test_the_maze_can_be_walked_along_its_shortest_paths(maze, task):
    position, info = maze.reset(seed=task, options={"task_id": task})
    oracle = maze.oracle
    expected = oracle.shortest_steps(position[None], info["goal"][None])[0]
    assert 20 < expected < 400
    for step in range(1, round(1.15 * expected) + 5):
        ahead = oracle.along(position[None], info["goal"][None], 1)[0]
        position, _, _, _, after = maze.step((ahead - position) / SPEED)
        if after["success"]:
            assert step >= expected - 1 / SPEED - 2  # success within a distance of 1; no path is shorter
            return
    pytest.fail("the goal was not reached in time")


def test_simulated_points_are_where_mujoco_has_them(maze):
    maze.reset(seed=0)
    rng = np.random.default_rng(0)
    wrong = []
    for _ in range(40):
        position, _ = maze.reset(seed=int(rng.integers(1000)), options={"task_id": int(rng.integers(1, 6))})
        heading = rng.uniform(-1, 1, 2)
        actions = np.clip(heading + rng.normal(0, 0.2, (25, 2)), -1, 1)
        for action in actions:
            after, *_ = maze.step(action)
        wrong.append(np.linalg.norm(maze.oracle.simulate(position[None], actions[None])[0] - after))
    assert np.median(wrong) < 0.05
    assert np.max(wrong) < 0.6  # 3 steps, after 25 along walls


def test_a_maze_with_teleporters_tells_nothing():
    assert PointMaze(maze="teleport").oracle is None


def test_rooms_simulate_what_they_step():
    envs, oracle = FourRoomVector(6, behaviour="navigate"), FourRoom().oracle
    before, _ = envs.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 8, 2))
    for action in np.moveaxis(actions, 1, 0):
        after, *_ = envs.step(action)
    simulated = oracle.simulate(before, actions)
    assert simulated["agent"] == pytest.approx(after["agent"], abs=1e-3)
    assert (simulated["doors"] == after["doors"]).all()
    assert (simulated["distractor"] == before["distractor"]).all()


def test_rooms_walk_along_shortest_paths():
    envs, oracle = FourRoomVector(20), FourRoom().oracle
    start, info = envs.reset(seed=0, options={"task_id": 1, "episode": np.arange(20)})
    goal = info["goal"]
    steps = oracle.shortest_steps(start, goal)
    assert (steps > 60).all()
    half = oracle.along(start, goal, 40)
    assert oracle.shortest_steps(half, goal) == pytest.approx(steps - 40, abs=8)  # around door posts, and beyond doors
    assert half["pixels"].shape == start["pixels"].shape
    assert (half["doors"] == start["doors"]).all()
    other = {**goal, "doors": np.roll(goal["doors"], 1, 0)}
    elsewhere = (other["doors"] != start["doors"]).any(1)
    assert 0 < elsewhere.sum() < len(elsewhere)
    assert (np.isinf(oracle.shortest_steps(start, other)) == elsewhere).all()  # no path leads to another layout
    there = oracle.along(start, goal, np.inf)
    assert there["agent"] == pytest.approx(goal["agent"])
    assert (there["distractor"] == start["distractor"]).all()
    assert (there["pixels"] != start["pixels"]).any()


def test_the_tiny_room_leads_around_its_wall():
    oracle = tiny.TinyRoom().oracle
    steps = oracle.shortest_steps(np.array([[0.2, 0.2], [0.2, 0.2]]), np.array([[0.8, 0.2], [0.2, 0.7]]))
    assert steps[1] == pytest.approx(0.5 / tiny.STEP)
    assert steps[0] > 0.95 / tiny.STEP
