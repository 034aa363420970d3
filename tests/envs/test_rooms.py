from __future__ import annotations

from dataclasses import asdict

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.sparse.csgraph import dijkstra

from hiwm.envs.rooms.captions import NAMES
from hiwm.envs.rooms.env import FourRoom, FourRoomVector
from hiwm.envs.rooms.geometry import BORDER, HALF_DOOR, HALF_WALL, RADIUS, Rooms
from hiwm.envs.rooms.render import Renderer
from hiwm.envs.rooms.tasks import BINS, CLOSED_DOORS, LAYOUTS, SPEED, VERSIONS, draw_version, expert, load_version

SIDES = (2, 4)


def draw(rooms, number, seed=0):
    rng = np.random.default_rng(seed)
    position = np.stack([rooms.draw_free(rng) for _ in range(number)])
    return position, rng.integers(0, len(rooms.is_open), number), rng


def test_four_rooms_have_the_published_doors():
    rooms = Rooms(2)
    assert rooms.size == 224
    assert rooms.doors.tolist() == [[112, 56], [112, 168], [56, 112], [168, 112]]
    assert rooms.door_rooms.tolist() == [[0, 1], [2, 3], [0, 2], [1, 3]]


@pytest.mark.parametrize("side", SIDES)
def test_nothing_gets_through_walls_or_closed_doors(side):
    rooms = Rooms(side)
    here, layout, rng = draw(rooms, 500)
    before = rooms.room_of(here)
    for step in range(400):
        if step % 40 == 0:  # long enough to cross a room
            heading = rng.uniform(-1, 1, here.shape)
        after = rooms.move(here, SPEED * heading, layout)
        room = rooms.room_of(after)
        for i in np.flatnonzero(room != before):
            pair = {int(before[i]), int(room[i])}
            (door,) = [k for k in range(rooms.num_doors) if set(rooms.door_rooms[k].tolist()) == pair]
            assert rooms.is_open[layout[i], door]
            axis = 0 if rooms.is_vertical[door] else 1
            assert abs(after[i, 1 - axis] - rooms.doors[door, 1 - axis]) < 20
        assert after.min() >= BORDER + RADIUS
        assert after.max() <= rooms.size - BORDER - RADIUS
        here, before = after, room
    assert (rooms.room_of(draw(rooms, 500)[0]) != before).mean() > 0.2  # and doors are used


@pytest.mark.parametrize("side", SIDES)
def test_captions_describe_the_position_of_the_agent(side):
    rooms = Rooms(side)
    agent = draw(rooms, 2000)[0].astype(np.float32)
    captions = FourRoom(side=side).captions({"agent": agent})
    said = {caption.wordings[0].removeprefix("the agent is in the "): caption.true for caption in captions}
    rows, columns = NAMES[side]
    room = rooms.room_of(agent)
    for number in range(side**2):
        name = f"{rows[number // side]} {columns[number % side]} room"
        np.testing.assert_array_equal(said[name], room == number)
        middle = np.abs(agent - (BORDER + 98 * np.array([number % side + 0.5, number // side + 0.5]))).max(1) < 98 / 6
        np.testing.assert_array_equal(said[f"{name}, in its middle"], middle)
    first = said["top left room, near its right door"]
    np.testing.assert_array_equal(first, (room == 0) & (np.linalg.norm(agent - rooms.doors[0], axis=1) < 30))
    assert len(captions) == 2 * side**2 + 2 * rooms.num_doors  # a door is in two rooms
    assert all(len(set(caption.wordings)) == len(caption.wordings) for caption in captions)
    wordings = [wording for caption in captions for wording in caption.wordings]
    assert len(set(wordings)) == len(wordings)  # nothing is said of two places


def test_a_wall_stops_and_a_door_does_not():
    rooms = Rooms(2)
    here = np.array([[100.0, 90.0], [100.0, 56.0], [100.0, 56.0]])
    layout = np.array([0, 0, 1])
    for _ in range(20):
        here = rooms.move(here, np.array([[SPEED, 0.0]] * 3), layout)
    wall = 112 - HALF_WALL - RADIUS
    assert here[0, 0] <= wall
    assert here[1, 0] > 112 + HALF_WALL
    assert here[2, 0] <= wall


@pytest.mark.parametrize("side", SIDES)
def test_shortest_paths_match_dijkstra(side):
    rooms = Rooms(side)
    start, layout, rng = draw(rooms, 30)
    goal = np.stack([rooms.draw_free(rng) for _ in range(30)])
    length, first, doors = rooms.shortest(start, goal, layout)
    for i in range(30):
        points = np.concatenate([start[i : i + 1], goal[i : i + 1], rooms.doors])
        of = [
            {int(rooms.room_of(start[i]))},
            {int(rooms.room_of(goal[i]))},
            *(set(pair.tolist()) for pair in rooms.door_rooms),
        ]
        shut = {*np.flatnonzero(~rooms.is_open[layout[i]]).tolist()}
        graph = np.zeros((len(points),) * 2)
        for a in range(len(points)):
            for b in range(len(points)):
                if of[a] & of[b] and not shut & {a - 2, b - 2}:
                    graph[a, b] = np.linalg.norm(points[a] - points[b])
        reached, before = dijkstra(graph, indices=0, return_predecessors=True)
        assert length[i] == pytest.approx(reached[1])
        path = [1]
        while before[path[-1]] != 0:
            path.append(int(before[path[-1]]))
        assert doors[i] == len(path) - 1
        assert first[i] == (path[-1] - 2 if doors[i] else -1)


@pytest.mark.parametrize(("side", "version"), [(2, "v1"), (4, "v1"), (4, "unseen-v1")])
def test_the_expert_solves_every_task_and_chance_none(side, version):
    for number, task in enumerate(load_version(version, side).tasks, 1):
        for solves in (True, False):
            envs = FourRoomVector(task.num_episodes, side=side, tasks=version)
            envs.reset(seed=0, options={"task_id": number})
            rng, won = np.random.default_rng(0), np.zeros(task.num_episodes, bool)
            here, layout = task.start, task.layout
            for _ in range(task.budget):
                action = expert(envs.rooms, here, task.goal, layout) if solves else rng.uniform(-1, 1, here.shape)
                observation, _, _, _, infos = envs.step(action)
                here = observation["agent"].astype(float)
                won |= infos["success"]
            assert won.mean() == 1 if solves else won.mean() < 0.02
            assert infos["ended"].all()


@pytest.mark.parametrize("side", SIDES)
def test_task_files_match_their_bins(side):
    rooms = Rooms(side)
    for bin_, task in zip(BINS[side], load_version("v1", side).tasks, strict=True):
        length, _, doors = rooms.shortest(task.start, task.goal, task.layout)
        assert task.num_episodes == 200
        assert (length >= bin_.length[0]).all()
        assert (length <= bin_.length[1]).all()
        assert bin_.doors == 0 or (doors == bin_.doors).all()
        assert 0.35 < (task.layout > 0).mean() <= 1
    assert [task.name for task in load_version("v1", side).tasks] == ["near", "far"]


def test_an_unknown_number_of_rooms_is_refused():
    with pytest.raises(ValueError, match=r"side is 3; expected one of 2, 4 rooms per side"):
        FourRoom(side=3)


def test_an_unknown_version_is_refused():
    with pytest.raises(ValueError, match=r"tasks is 'unseen-v1'; expected a version for 2 x 2 rooms: v1$"):
        FourRoom(tasks="unseen-v1")
    with pytest.raises(ValueError, match=r"tasks is 'v2'; expected a version for 4 x 4 rooms: v1, unseen-v1$"):
        draw_version("v2", 4)


@pytest.mark.parametrize("behaviour", [None, "navigate", "explore"])
def test_gymnasium_accepts_it(behaviour):
    check_env(FourRoom(behaviour=behaviour), skip_render_check=True)


def test_episodes_are_the_files_and_the_same_in_any_batch():
    task = load_version("v1", 2).tasks[1]
    envs = FourRoomVector(3)
    together, infos = envs.reset(seed=[1, 2, 3], options={"task_id": 2, "episode": [7, 0, 7]})
    np.testing.assert_allclose(together["agent"], task.start[[7, 0, 7]], rtol=1e-6)
    np.testing.assert_allclose(infos["goal"]["agent"], task.goal[[7, 0, 7]], rtol=1e-6)
    np.testing.assert_allclose(infos["goal"]["distractor"], task.goal_distractor[[7, 0, 7]], rtol=1e-6)
    drawn = envs.renderer.frames(task.goal[[7, 0, 7]], task.goal_distractor[[7, 0, 7]], task.layout[[7, 0, 7]])
    assert np.array_equal(infos["goal"]["pixels"], drawn)
    one = FourRoom()
    alone, info = one.reset(seed=2, options={"task_id": 2, "episode": 0})
    for _ in range(120):
        for name in alone:
            assert np.array_equal(alone[name], together[name][1]), name
        action = np.random.default_rng(0).uniform(-1, 1, (3, 2))
        together, _, _, _, infos = envs.step(action)
        alone, _, _, _, info = one.step(action[1])
    assert info["success"] == infos["success"][1]


def test_a_number_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"task_id is 3; expected 1 to 2"):
        FourRoom().reset(options={"task_id": 3})


def test_the_distractor_jumps_every_35_steps_and_keeps_its_heading_between():
    envs = FourRoomVector(200, behaviour="navigate")
    before = envs.reset(seed=0)[0]["distractor"]
    jumps = steps = 0
    for _ in range(300):
        now = envs.step(np.zeros((200, 2)))[0]["distractor"]
        jumps += int((np.linalg.norm(now - before, axis=1) > 12).sum())
        steps, before = steps + 200, now
    assert 31 < steps / jumps < 40


def test_collecting_gives_a_new_goal_at_every_arrival():
    envs = FourRoomVector(5, behaviour="navigate")
    _, infos = envs.reset(seed=0)
    arrivals = 0
    for _ in range(300):
        _, _, _, _, infos = envs.step(infos["expert_action"])
        arrivals += int(infos["success"].sum())
        assert not infos["ended"].any()
    assert arrivals >= 5


def test_half_of_the_exploring_experts_walk_into_closed_doors():
    at_closed_door = {}
    for behaviour in ("navigate", "explore"):
        envs = FourRoomVector(100, side=4, tasks="unseen-v1", behaviour=behaviour, resolution=16)
        observation, infos = envs.reset(seed=0)
        steps = []
        for _ in range(200):
            observation, _, _, _, infos = envs.step(infos["expert_action"])
            near = np.linalg.norm(observation["agent"][:, None] - envs.rooms.doors, axis=-1) < 20
            steps.append((near & (observation["doors"] == 0)).any(1))
        at_closed_door[behaviour] = np.mean(steps, 0)  # share of each episode
    assert (at_closed_door["navigate"] > 0.1).sum() <= 5
    assert (at_closed_door["explore"] > 0.1).sum() >= 15


def test_an_exploring_expert_gives_up_a_goal_behind_a_closed_door():
    envs = FourRoomVector(50, side=4, tasks="unseen-v1", behaviour="explore", resolution=16)
    _, infos = envs.reset(seed=0)
    for _ in range(400):
        _, _, _, _, infos = envs.step(infos["expert_action"])
    before = envs.step(np.zeros((50, 2)))[0]["agent"]
    for _ in range(200):
        observation, _, _, _, infos = envs.step(infos["expert_action"])
    assert (np.linalg.norm(observation["agent"] - before, axis=1) > 20).mean() > 0.9


def test_frames_show_dots_walls_and_the_closed_door():
    rooms = Rooms(2)
    renderer = Renderer(rooms, 64)
    agent, distractor = np.array([[60.0, 60.0]] * 2), np.array([[160.0, 60.0]] * 2)
    frames = renderer.frames(agent, distractor, np.array([0, 1]))
    assert frames.dtype == np.uint8
    at = (np.array([60, 160]) * 64 / 224).astype(int)
    red, blue = frames[0, at[0], at[0]].astype(int), frames[0, at[0], at[1]].astype(int)
    assert red[0] > 200 > 120 > red[1]
    assert blue[2] > 150 > 120 > blue[0]
    assert frames[0, 3, 3].min() < 90  # the outer wall
    assert frames[0, 10, 10].min() == 255
    door = (np.array([112, 56]) * 64 / 224).astype(int)
    assert frames[0, door[1], door[0]].min() == 255
    assert frames[1, door[1], door[0]].max() == 0
    other = frames[0].astype(int) - frames[1]
    assert (np.abs(other).sum(-1) > 0).mean() < 0.02  # nothing else differs


def test_a_dot_follows_its_agent_by_less_than_a_pixel():
    renderer = Renderer(Rooms(2), 64)
    x = np.linspace(40, 60, 50)
    agent = np.stack([x, np.full(50, 50.0)], 1)
    frames = renderer.frames(agent, np.full((50, 2), 170.0), np.zeros(50, int))
    darkness = 255 - frames[:, 8:22, 8:22, 1].astype(float)
    centre = (darkness.sum(1) * np.arange(8, 22)).sum(1) / darkness.sum((1, 2))
    np.testing.assert_allclose((centre + 0.5) * 224 / 64, x, atol=0.5)


def test_make_vector_gives_a_gymnasium_vector():
    envs = FourRoom(behaviour="navigate", resolution=32).make_vector(4)
    assert isinstance(envs, gymnasium.vector.VectorEnv)
    observation, _ = envs.reset(seed=0)
    assert observation["pixels"].shape == (4, 32, 32, 3)
    assert envs.observation_space.contains(observation)


def test_the_walls_to_draw_are_those_of_the_frames():
    env = FourRoom()
    rooms = Rooms(2)
    inside = np.zeros((int(rooms.size),) * 2, bool)
    y, x = np.mgrid[0 : rooms.size, 0 : rooms.size] + 0.5
    for left, bottom, width, height in env.walls:
        inside |= (x > left) & (x < left + width) & (y > bottom) & (y < bottom + height)
    frame = Renderer(rooms, int(rooms.size)).backgrounds[0][..., 0] < 128
    within = slice(int(BORDER) + 1, int(rooms.size - BORDER) - 1)
    assert (inside[within, within] == frame[within, within]).mean() > 0.99


@pytest.mark.parametrize("side", [2, 4])
def test_the_walls_of_an_episode_have_its_closed_doors(side):
    env = FourRoom(side=side, resolution=8, tasks="v1" if side == 2 else "unseen-v1")
    rooms = env._one.rooms

    def area(walls):
        return sum(width * height for _, _, width, height in walls)

    doors = np.ones(rooms.num_doors, np.float32)
    assert env.walls_of({"doors": doors}) == env.walls
    for closed in range(rooms.num_doors):
        walls = env.walls_of({"doors": np.delete(np.insert(doors, closed, 0), -1)})
        x, y = rooms.doors[closed]
        assert any(left <= x <= left + width and low <= y <= low + height for left, low, width, height in walls)
        assert area(walls) == pytest.approx(area(env.walls) + 4 * HALF_DOOR * HALF_WALL)
    assert env.make_vector(2).walls_of({"doors": doors}) == env.walls


def test_unseen_layouts_are_connected_and_no_task_is_in_one_of_the_data():
    version = load_version("unseen-v1", 4)
    rooms = Rooms(4, version.layouts)
    assert version.layouts.shape == (sum(LAYOUTS.values()), 24)
    assert len(np.unique(version.layouts, axis=0)) == len(version.layouts)
    assert set(version.layouts.sum(1)) == set(range(CLOSED_DOORS[0], CLOSED_DOORS[1] + 1))
    corner, everywhere = np.full((16, 2), 60.0), BORDER + 98 * (np.stack(np.divmod(np.arange(16), 4), 1) + 0.5)
    for layout in range(len(version.layouts)):
        length, _, _ = rooms.shortest(corner, everywhere, np.full(16, layout))
        assert np.isfinite(length).all()
    envs = FourRoomVector(400, side=4, tasks="unseen-v1", behaviour="navigate", resolution=16)
    collected = rooms.layout_of(envs.reset(seed=0)[0]["doors"])
    assert set(collected) == set(range(LAYOUTS["train"]))
    for bin_, task in zip(BINS[4], version.tasks, strict=True):
        assert set(task.layout) == set(range(LAYOUTS["train"], len(version.layouts)))
        length, _, doors = rooms.shortest(task.start, task.goal, task.layout)
        assert ((length >= bin_.length[0]) & (length <= bin_.length[1])).all()
        assert bin_.doors == 0 or (doors == bin_.doors).all()


@pytest.mark.parametrize(("version", "side"), VERSIONS)
def test_a_version_is_drawn_as_its_file_was(version, side):
    drawn, read = draw_version(version, side), load_version(version, side)
    np.testing.assert_equal(asdict(drawn), asdict(read))


def test_the_layout_of_an_observation_is_found_and_another_refused():
    rooms = Rooms(4, load_version("unseen-v1", 4).layouts)
    layout = np.array([3, 149, 0])
    np.testing.assert_array_equal(rooms.layout_of(rooms.is_open[layout].astype(np.float32)), layout)
    with pytest.raises(ValueError, match=r"doors match none of the 150 layouts"):
        rooms.layout_of(np.zeros((1, 24)))
