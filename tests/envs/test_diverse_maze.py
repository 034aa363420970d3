"""Diverse Maze: its mazes, its ball and its tasks."""

import warnings

import gymnasium
import numpy as np
import pytest

from hiwm.cli import main
from hiwm.envs.contract import check_contract
from hiwm.envs.diverse_maze.env import GOAL_RADIUS, DiverseMaze
from hiwm.envs.diverse_maze.maps import SIDE, cell_distances, draw_maps
from hiwm.envs.diverse_maze.simulator import Simulator
from hiwm.envs.diverse_maze.tasks import BINS, TASK_MAPS, TRAINING_MAPS, draw_version, load_version
from hiwm.evaluation.traces import load_traces

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv


def cells_apart(walls: np.ndarray, start: np.ndarray, goal: np.ndarray) -> float:
    (i, j), (k, m) = np.floor(start).astype(int), np.floor(goal).astype(int)
    return cell_distances(walls)[j * SIDE + i, m * SIDE + k]


def covered(walls: np.ndarray) -> np.ndarray:
    """Which cells rectangles cover."""
    inside = np.zeros((SIDE, SIDE), bool)
    for left, bottom, width, height in np.array(walls, int):
        inside[bottom : bottom + height, left : left + width] = True
    return inside


def test_walls_are_those_of_the_episode():
    env = DiverseMaze()
    border = covered(env.walls)
    for episode in (0, 1):
        observation, _ = env.reset(options={"task_id": 1, "episode": episode})
        inside = covered(env.walls_of(observation))
        assert inside.tolist() == (observation["map"] == 1).tolist()
        assert (inside & border).sum() == border.sum() == 36


def test_mazes_are_those_of_the_protocol():
    maps = load_version().maps
    assert maps.shape == (TRAINING_MAPS + TASK_MAPS, SIDE, SIDE) == (45, 10, 10)
    assert len({walls.tobytes() for walls in maps}) == 45
    for walls in maps:
        assert all(edge.all() for edge in (walls[0], walls[-1], walls[:, 0], walls[:, -1]))
        assert 0.5 <= (~walls[1:-1, 1:-1]).mean() <= 0.8
        between = cell_distances(walls)[np.ix_(~walls.ravel(), ~walls.ravel())]
        assert between.max() < 20  # also finite: all of it is connected
    assert np.array_equal(maps, draw_maps(45, np.random.default_rng(0)))


def test_cells_between_two_places():
    walls = np.ones((SIDE, SIDE), bool)
    walls[1, 1:4] = walls[1:4, 3] = False
    assert cells_apart(walls, np.array([1.5, 1.5]), np.array([3.5, 3.5])) == 4
    assert cells_apart(walls, np.array([1.5, 1.5]), np.array([5.5, 5.5])) == np.inf


def test_tasks_are_in_mazes_that_are_not_in_the_data():
    version = load_version()
    assert version.start.shape == version.goal.shape == (3, 200, 2)
    shorter = {}
    assert set(version.map_number.ravel()) == set(range(TRAINING_MAPS, TRAINING_MAPS + TASK_MAPS))
    for (least, most), numbers, starts, goals in zip(
        BINS, version.map_number, version.start, version.goal, strict=True
    ):
        for number, start, goal in zip(numbers, starts, goals, strict=True):
            walls = version.maps[number]
            distances = cell_distances(walls)
            i, j = np.floor(start).astype(int)
            reachable = distances[j * SIDE + i][np.isfinite(distances[j * SIDE + i])]
            there_is_one = ((reachable >= least) & (reachable <= most)).any()
            apart = cells_apart(walls, start, goal)
            assert least <= apart <= most if there_is_one else apart == reachable.max()
            assert np.abs(goal % 1 - 0.5).max() <= 0.251
            shorter[least] = shorter.get(least, 0) + (apart < least)
    assert shorter == {5: 0, 9: 1, 13: 80}  # in mazes without a path so long, as the documentation says


def test_the_file_is_as_it_was_drawn():
    drawn, read = draw_version(), load_version()
    assert np.array_equal(drawn.maps, read.maps)
    assert np.array_equal(drawn.map_number, read.map_number)
    np.testing.assert_allclose(drawn.start, read.start, atol=0.02)  # the starts are simulated
    assert (np.abs(drawn.goal - read.goal).max(-1) < 1e-9).mean() > 0.99


def test_the_ball_moves_as_in_gymnasium_robotics():
    walls = load_version().maps[3]
    theirs = PointMazeEnv(maze_map=[[int(cell) for cell in row] for row in walls[::-1]])
    theirs.reset(seed=0)
    ours, rng = Simulator(walls), np.random.default_rng(0)
    position, velocity = theirs.data.qpos.copy(), np.array([2.0, -1.5])
    theirs.point_env.set_state(position, velocity)
    position = position + SIDE / 2
    for _ in range(200):
        action = rng.uniform(-1, 1, 2)
        for _ in range(4):
            theirs.point_env.step(action)
        position, velocity = ours.step(position, velocity, action)
        np.testing.assert_allclose(position, theirs.data.qpos + SIDE / 2, atol=1e-3)
        np.testing.assert_allclose(velocity, theirs.data.qvel, atol=1e-2)
    theirs.close()


def test_a_step_depends_on_nothing_but_its_arguments():
    walls = load_version().maps[0]
    start = np.argwhere(~walls)[0][::-1] + 0.5
    arguments = (start, np.array([4.0, -4.0]), np.array([0.3, 0.7]))
    alone = Simulator(walls).step(*arguments)
    shared = Simulator(walls)
    shared.step(start, np.array([-5.0, 5.0]), np.array([-1.0, 1.0]))
    for ours, after_another in zip(alone, shared.step(*arguments), strict=True):
        assert np.array_equal(ours, after_another)


def test_contract_and_columns():
    shapes = check_contract(DiverseMaze, "DiverseMaze", "state", goal=["position", "velocity", "map"], num_tasks=3)
    assert shapes == {"position": (2,), "velocity": (2,), "map": (SIDE, SIDE), "action": (2,)}
    check_contract(lambda: DiverseMaze(behaviour="random"), "DiverseMaze", "state")


def test_data_are_random_and_from_the_mazes_for_training():
    env, version = DiverseMaze(behaviour="random"), load_version()
    known = {walls.tobytes(): number for number, walls in enumerate(version.maps)}
    seen, speeds, actions = set(), [], []
    for seed in range(150):
        observation, info = env.reset(seed=seed)
        walls = observation["map"] > 0.5
        seen.add(known[walls.tobytes()])
        x, y = np.floor(observation["position"]).astype(int)
        assert not walls[y, x]
        speeds.append(np.linalg.norm(observation["velocity"]) / 0.04)
        actions.append(info["expert_action"])
    assert seen == set(range(TRAINING_MAPS))
    assert 4 < max(speeds) <= 5
    assert np.mean(speeds) == pytest.approx(2.5, abs=0.4)
    assert np.linalg.norm(actions, axis=1).max() <= 1
    assert np.mean(actions) == pytest.approx(0, abs=0.1)
    again, _ = env.reset(seed=149)
    assert all(np.array_equal(again[name], observation[name]) for name in again)


def test_an_episode_ends_near_its_goal():
    env = DiverseMaze()
    env.reset(seed=0, options={"task_id": 2, "episode": 7})
    assert np.array_equal(env._goal, load_version().goal[1, 7])
    env._position = env._goal + np.array([0.0, GOAL_RADIUS + 0.03])
    _, _, terminated, truncated, info = env.step(np.zeros(2))
    assert (terminated, truncated, info["success"]) == (False, False, False)
    env._position, env._velocity = env._goal + np.array([0.0, GOAL_RADIUS - 0.03]), np.zeros(2)
    _, _, terminated, _, info = env.step(np.zeros(2))
    assert terminated
    assert info["success"]
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset first"):
        DiverseMaze().step(np.zeros(2))
    with pytest.raises(ValueError, match="task_id is 4; expected 1 to 3"):
        env.reset(options={"task_id": 4})
    with pytest.raises(ValueError, match="behaviour is 'navigate'; expected null or random"):
        DiverseMaze(behaviour="navigate")


def test_the_oracle_knows_the_ball_and_the_paths():
    env = DiverseMaze()
    starts, goals = [], []
    for episode in range(3):
        start, info = env.reset(options={"task_id": 3, "episode": episode})
        starts.append(start)
        goals.append(info["goal"])
    start, goal = ({name: np.stack([o[name] for o in those]) for name in those[0]} for those in (starts, goals))
    steps = env.oracle.shortest_steps(start, goal)
    apart = [
        cells_apart(m > 0.5, s, g) for m, s, g in zip(start["map"], start["position"], goal["position"], strict=True)
    ]
    assert (
        (steps / 10 > 0.6 * np.array(apart)) & (steps / 10 < np.array(apart) + 1)
    ).all()  # 0.1 cells a step, corners cut
    other = {name: values[[1, 2, 0]] for name, values in goal.items()}
    assert np.isinf(env.oracle.shortest_steps(start, other)).all()  # in another maze
    half = env.oracle.along(start, goal, steps.min() / 2)
    np.testing.assert_allclose(env.oracle.shortest_steps(half, goal), steps - steps.min() / 2, rtol=1e-3)
    np.testing.assert_allclose(env.oracle.along(start, goal, np.inf)["position"], goal["position"])
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 10, 2))
    after = env.oracle.simulate(start, actions)
    env.reset(options={"task_id": 3, "episode": 1})
    for action in actions[1]:
        observation, *_ = env.step(action)
    np.testing.assert_allclose(observation["position"], after["position"][1], atol=1e-4)
    np.testing.assert_allclose(observation["velocity"], after["velocity"][1], atol=1e-4)


def test_a_picture_shows_walls_ball_and_goal():
    env = DiverseMaze()
    env.reset(options={"task_id": 1, "episode": 0})
    frame = env.render()
    assert frame.shape == (400, 400, 3)
    assert frame.dtype == np.uint8

    def at(position):
        x, y = (40 * position).astype(int)
        return tuple(frame[399 - y, x].tolist())

    assert at(env._goal) == (120, 190, 120)
    assert at(env._position) == (200, 60, 40)
    assert at(np.array([0.5, 0.5])) == (70, 70, 70)


def test_a_run_and_its_report(tmp_path, capsys):
    small = (
        "dataset.episodes=60 dataset.workers=1 training.steps=5 levels.level1.training.steps=5 graph.num_nodes=30 graph.min_component=2 "
        "levels.level1.regularizers.graph_distance.landmarks=100 levels.level1.regularizers.graph_distance.windows=300 "
        "action_bank.size=100 planner.budget=100 evaluation.episodes=1 evaluation.baseline_episodes=1 evaluation.max_steps=12 "
        "threads=1 tracking=none"
    )
    arguments = ["experiment=diverse-maze", f"root={tmp_path}", *small.split()]
    assert main(["run", *arguments]) == 0, capsys.readouterr().err
    version = load_version()
    for task, trace in enumerate(load_traces(tmp_path / "diverse-maze" / "evaluation.npz")["hierarchical"]):
        assert covered(trace.walls).tolist() == version.maps[version.map_number[task, 0]].tolist()
    page = (tmp_path / "diverse-maze" / "report.html").read_text()
    assert "DiverseMaze · 2 levels" in page
    assert "true shortest path" in page  # of the oracle, which reads the map
