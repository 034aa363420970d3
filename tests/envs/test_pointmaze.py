from collections import deque

import numpy as np
import pytest

from hiwm.envs.pointmaze import PointMaze

MAZES = ("medium", "teleport")


@pytest.fixture(scope="module", params=MAZES)
def plain(request):
    return PointMaze(maze=request.param)


@pytest.fixture(scope="module", params=MAZES)
def navigate(request):
    return PointMaze(maze=request.param, behaviour="navigate")


@pytest.fixture(scope="module")
def stitch():
    return PointMaze(maze="medium", behaviour="stitch")


@pytest.fixture(scope="module")
def explore():
    return PointMaze(maze="medium", behaviour="explore")


def cell(xy):
    return round(float(xy[1]) / 4) + 1, round(float(xy[0]) / 4) + 1


def centre(ij):
    return np.array([4 * ij[1] - 4, 4 * ij[0] - 4], float)


def episode(env, seed, steps=40, **options):
    observation, info = env.reset(seed=seed, options=options)
    trace = [observation, info["goal"]]
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, 2))
    for action in actions:
        observation, _, _, _, info = env.step(info.get("expert_action", action))
        trace.append(observation)
    return np.stack(trace)


def distances(maze, start):
    found, queue = {start: 0}, deque([start])
    while queue:
        i, j = queue.popleft()
        for near in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if maze[near] == 0 and near not in found:
                found[near] = found[i, j] + 1
                queue.append(near)
    return found


def same_state(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_reset_is_reproducible_whatever_the_global_generator(plain):
    np.random.seed(1)  # noqa: NPY002
    first = episode(plain, 5)
    np.random.seed(2)  # noqa: NPY002
    episode(plain, 6, steps=3)
    np.testing.assert_array_equal(episode(plain, 5), first)


def test_collecting_is_reproducible_whatever_the_global_generator(navigate):
    np.random.seed(1)  # noqa: NPY002
    first = episode(navigate, 5)
    np.random.seed(2)  # noqa: NPY002
    episode(navigate, 6, steps=3)
    np.testing.assert_array_equal(episode(navigate, 5), first)


def test_a_new_environment_gives_the_same(navigate, stitch, explore):
    for env in (stitch, explore):
        again = PointMaze(maze="medium", behaviour=env.behaviour)
        np.testing.assert_array_equal(episode(again, 3), episode(env, 3))


def test_the_global_generator_is_left_alone(plain, navigate, stitch, explore):
    for env in (plain, navigate, stitch, explore):
        before = np.random.get_state()  # noqa: NPY002
        episode(env, 3)
        assert same_state(before, np.random.get_state())  # noqa: NPY002


def test_teleporters_are_reproducible():
    env = PointMaze(maze="teleport")
    into = env.unwrapped._teleport_info["teleport_in_xys"][0]
    ends = []
    for seed in [*range(12), *range(12)]:
        env.reset(seed=seed)
        env.unwrapped.set_xy(np.array(into, float))
        before = np.random.get_state()  # noqa: NPY002
        env.step(np.zeros(2))
        assert same_state(before, np.random.get_state())  # noqa: NPY002
        ends.append(cell(env.unwrapped.get_xy()))
    assert ends[:12] == ends[12:]
    assert len(set(ends)) == 3


def test_different_seeds_differ(plain, navigate):
    for env in (plain, navigate):
        starts = np.stack([env.reset(seed=seed)[0] for seed in range(8)])
        goals = np.stack([env.reset(seed=seed)[1]["goal"] for seed in range(8)])
        assert len(np.unique(starts, axis=0)) == len(np.unique(goals, axis=0)) == 8


def test_expert_action_is_the_direction_of_the_oracle(navigate):
    env, maze = navigate, navigate.unwrapped
    rng = np.random.default_rng(0)
    free = np.argwhere(maze.maze_map == 0)
    checked = 0
    for seed in range(10):
        _, info = env.reset(seed=seed)
        for step in range(30):
            here = maze.get_xy().copy()
            towards = maze.get_oracle_subgoal(here, maze.cur_goal_xy)[0] - here
            expected = towards / (np.linalg.norm(towards) + 1e-6)
            np.testing.assert_allclose(info["expert_action"], expected, atol=1e-9)
            checked += 1
            if step % 3 == 0:
                maze.set_xy(centre(rng.choice(free)) + rng.uniform(-1, 1, 2))
            _, _, _, _, info = env.step(rng.uniform(-1, 1, 2))
    assert checked == 300


def test_following_the_expert_arrives(stitch):
    # in the goal's cell; as OGBench's oracle aims for the centre, a goal in a corner may stay just out of its tolerance
    for seed in range(6):
        _, info = stitch.reset(seed=seed)
        for _ in range(200):
            _, _, terminated, _, info = stitch.step(info["expert_action"])
            assert not terminated
            if info["success"]:
                break
        assert cell(stitch.unwrapped.get_xy()) == cell(stitch.unwrapped.cur_goal_xy)
        assert np.linalg.norm(stitch.unwrapped.get_xy() - stitch.unwrapped.cur_goal_xy) < 2**0.5


def test_stitch_goals_are_four_cells_away(stitch):
    maze = stitch.unwrapped.maze_map
    ends = set()
    for seed in range(25):
        observation, info = stitch.reset(seed=seed)
        start, goal = cell(observation), cell(info["goal"])
        assert distances(maze, start)[goal] == 4
        ends.add((start, goal))
    assert len(ends) > 15


def test_stitch_keeps_its_goal_on_success(stitch):
    _, info = stitch.reset(seed=0)
    goal = np.array(stitch.unwrapped.cur_goal_xy)
    np.testing.assert_allclose(info["goal"], goal)
    stitch.unwrapped.set_xy(goal)
    _, _, terminated, _, info = stitch.step(np.zeros(2))
    assert info["success"] == 1
    assert not terminated
    np.testing.assert_array_equal(stitch.unwrapped.cur_goal_xy, goal)


def test_navigate_draws_a_new_goal_on_success(navigate):
    maze = navigate.unwrapped
    navigate.reset(seed=0)
    goals = [tuple(maze.cur_goal_xy)]
    for _ in range(30):
        here = maze.get_xy().copy()
        _, _, terminated, _, info = navigate.step(np.zeros(2))
        assert not terminated
        assert bool(info["success"]) == (np.linalg.norm(here - goals[-1]) <= 1)
        if info["success"]:
            assert tuple(maze.cur_goal_xy) != goals[-1]
            goals.append(tuple(maze.cur_goal_xy))
        else:
            assert tuple(maze.cur_goal_xy) == goals[-1]
        maze.set_xy(np.array(goals[-1]))
    cells = {cell(goal) for goal in goals}
    assert len(goals) > 20
    assert len(cells) > 5
    blocked = maze.maze_map
    for i, j in cells:  # a free cell, and not the middle of a straight hallway
        assert blocked[i, j] == 0
        sides = (blocked[i - 1, j], blocked[i + 1, j], blocked[i, j - 1], blocked[i, j + 1])
        assert sides not in {(0, 0, 1, 1), (1, 1, 0, 0)}
    for goal in goals:
        assert np.abs(np.array(goal) - centre(cell(goal))).max() <= 1


def test_explore_keeps_a_direction_for_ten_steps(explore):
    _, info = explore.reset(seed=0)
    directions = [info["expert_action"]]
    for _ in range(39):
        directions.append(explore.step(directions[-1])[4]["expert_action"])
    directions = np.array(directions).reshape(4, 10, 2)
    np.testing.assert_array_equal(directions, np.broadcast_to(directions[:, :1], directions.shape))
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1)
    assert len(np.unique(directions[:, 0, 0])) == 4


def test_bad_behaviour_is_refused():
    with pytest.raises(ValueError, match=r"'wander'.*navigate, stitch, explore"):
        PointMaze(maze="medium", behaviour="wander")


def test_walls_cover_exactly_the_blocked_cells(plain):
    maze = plain.unwrapped
    walls = plain.walls
    assert len(walls) == (maze.maze_map == 1).sum()
    for i, j in np.ndindex(maze.maze_map.shape):
        # the centre and points near the four corners of the cell
        for offset in [(0, 0), (-1.9, -1.9), (-1.9, 1.9), (1.9, -1.9), (1.9, 1.9)]:
            x, y = centre((i, j)) + offset
            covers = sum(
                left < x < left + width and bottom < y < bottom + height for left, bottom, width, height in walls
            )
            assert covers == maze.maze_map[i, j]
        if maze.maze_map[i, j]:
            block = maze.model.geom(f"block_{i}_{j}")
            wall = (*(block.pos[:2] - block.size[:2]), *(2 * block.size[:2]))
            assert any(np.allclose(wall, other) for other in walls)


def test_task_starts_and_ends_near_its_cells(plain):
    for task in range(1, plain.num_tasks + 1):
        described = plain.unwrapped.task_infos[task - 1]
        observation, info = plain.reset(seed=task, options={"task_id": task})
        assert np.abs(observation - centre(described["init_ij"])).max() <= 1 + 1e-6
        assert np.abs(info["goal"] - centre(described["goal_ij"])).max() <= 1 + 1e-6
        assert info["goal"].shape == observation.shape
        assert "expert_action" not in info
    assert plain.num_tasks == len(plain.unwrapped.task_infos)


def test_success_ends_an_evaluation(plain):
    _, info = plain.reset(seed=0, options={"task_id": 2})
    _, _, terminated, _, step_info = plain.step(np.zeros(2))
    assert step_info["success"] == 0
    assert not terminated
    plain.unwrapped.set_xy(np.array(info["goal"]))
    _, _, terminated, _, step_info = plain.step(np.zeros(2))
    assert step_info["success"] == 1
    assert terminated


def test_reset_without_a_seed_continues_the_stream(plain):
    plain.reset(seed=0)
    second = plain.reset()[0]
    plain.reset(seed=0)
    np.testing.assert_array_equal(plain.reset()[0], second)


DOOR = (3, 3)  # of the medium maze


def test_a_door_on_every_shortest_path_can_be_closed():
    opened, closed = (PointMaze(maze="medium", through=DOOR, closed=wall) for wall in (False, True))
    pairs = set()
    for number in range(20):
        start, info = opened.reset(seed=number, options={"task_id": 1, "episode": number})
        again, closed_info = closed.reset(seed=number, options={"task_id": 1, "episode": number})
        np.testing.assert_array_equal(start, again)
        np.testing.assert_array_equal(info["goal"], closed_info["goal"])
        a, b = cell(start), cell(info["goal"])
        assert distances(opened.unwrapped.maze_map, a)[b] < distances(closed.unwrapped.maze_map, a)[b]
        pairs.add((a, b))
    assert len(pairs) == 20
    assert set(closed.walls) - set(opened.walls) == {(6.0, 6.0, 4.0, 4.0)}


def test_a_closed_door_stops_the_agent():
    for wall, through in ((False, True), (True, False)):
        env = PointMaze(maze="medium", through=DOOR, closed=wall)
        env.reset(seed=0, options={"task_id": 1, "episode": 0})
        env.unwrapped.set_xy(centre((3, 2)))
        for _ in range(40):
            env.step(np.array([1.0, 0.0]))
        assert (env.unwrapped.get_xy()[0] > 10) == through


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"through": [0, 0]}, r"through is \[0, 0\]; expected \[row, column\] of a free cell"),
        ({"through": [1, 1]}, r"through is \[1, 1\]; expected a cell that some shortest path needs"),
        (
            {"through": [3, 3], "behaviour": "stitch"},
            "through is .* and behaviour is 'stitch'; expected only one of the two",
        ),
        ({"closed": True}, "closed is True and through is None"),
    ],
)
def test_cells_that_are_no_doors_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PointMaze(maze="medium", **arguments)
