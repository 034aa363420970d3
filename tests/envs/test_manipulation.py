from functools import partial

import gymnasium
import mujoco
import numpy as np
import pytest

from hiwm.data.collect import Collection, collect
from hiwm.data.policies import NoisyExpertPolicy
from hiwm.data.vector import make_vector
from hiwm.envs.manipulation import NAMES, Manipulation, columns
from hiwm.envs.manipulation_captions import describe

CUBES = {"cube-single": 1, "cube-double": 2, "cube-triple": 3, "scene": 1}
GOAL = ("cubes", "buttons", "drawer", "window")


@pytest.fixture(scope="module", params=NAMES)
def plain(request):
    return Manipulation(name=request.param)


@pytest.fixture(scope="module", params=("cube-double", "scene"))
def play(request):
    return Manipulation(name=request.param, behaviour="play")


@pytest.fixture(scope="module")
def scene():
    return Manipulation(name="scene", behaviour="play")


def episode(env, seed, steps=25, task=1):
    observation, info = env.reset(seed=seed, options={"task_id": task})
    trace = [observation, info.get("goal", observation)]
    for action in np.random.default_rng(seed).uniform(-1, 1, (steps, 5)):
        observation, _, _, _, info = env.step(info.get("expert_action", action))
        trace.append(observation)
    return {name: np.stack([row[name] for row in trace]) for name in observation}


def assert_same(left, right):
    assert list(left) == list(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def same_state(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def turn(about, angle):
    """Rotation matrix from an axis and an angle."""
    x, y, z = np.asarray(about) / np.linalg.norm(about)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def quaternion(matrix):
    """(w, x, y, z), w > 0."""
    w = np.sqrt(1 + np.trace(matrix)) / 2
    r = matrix
    return np.array([w, *np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]) / (4 * w)])


def test_the_contract(plain):
    observation, info = plain.reset(seed=0, options={"task_id": 2})
    assert plain.observation_space.contains(observation)
    assert plain.observation_space.contains(info["goal"])
    observation, reward, terminated, truncated, info = plain.step(plain.action_space.sample())
    assert plain.observation_space.contains(observation)
    assert (reward, terminated, truncated, info) == (0.0, False, False, {"success": False})
    assert plain.max_steps == gymnasium.spec(f"{plain.name}-v0").max_episode_steps
    assert plain.num_tasks == plain.unwrapped.num_tasks


def test_shapes(plain):
    n = CUBES[plain.name]
    scene = plain.name == "scene"
    shapes = {name: space.shape for name, space in plain.observation_space.items()}
    fixtures = {"buttons": (2,), "drawer": (1,), "window": (1,), "fixtures": (6,), "fixtures_relative": (36,)}
    assert shapes == {
        "effector": (13,),
        "cubes": (3 * n,),
        "cube_turns": (5 * n,),
        "relative": (11 * n,),
        "entities": (6, 18) if scene else (1 + n, 15),
        "raw": (40,) if scene else (19 + 9 * n,),
        **(fixtures if scene else {}),
    }


def test_captions_describe_cubes_and_fixtures(scene):
    cubes = np.array([[0.5, 0.2, 0.02], [0.35, -0.2, 0.02], [0.42, 0.0, 0.02], [0.42, 0.0, 0.2], [0.42, 0.0, 0.06]])
    fixtures = {"drawer": [[-0.16], [0], [0], [0], [0]], "window": [[0], [0.2], [0], [0], [0]], "buttons": [[1, 0]] * 5}
    captions = scene.captions({"cubes": cubes, **{name: np.array(value) for name, value in fixtures.items()}})
    true = {caption.wordings[0]: np.flatnonzero(caption.true).tolist() for caption in captions}
    assert true["the cube lies at the far left of the table"] == [0]
    assert true["the cube lies at the near right of the table"] == [1]
    assert true["the cube lies in the middle of the table"] == [2]
    assert true["the cube lies in the air"] == [3]  # the last is neither up in the air nor on the table
    assert true["the drawer is open"] == [0]
    assert true["the window is open"] == [1]
    assert true["the drawer is closed"] == [1, 2, 3, 4]
    assert true["the drawer is unlocked"] == true["the window is locked"] == [0, 1, 2, 3, 4]
    assert true["the drawer is locked"] == true["the window is unlocked"] == []
    wordings = [wording for caption in captions for wording in caption.wordings]
    assert len(set(wordings)) == len(wordings)


def test_captions_of_several_cubes_name_their_colours():
    captions = describe({"cubes": np.array([[0.5, 0.2, 0.02, 0.35, -0.2, 0.02]])})
    assert [c.wordings[0] for c in captions if c.true.any()] == [
        "the red cube lies at the far left of the table",
        "the blue cube lies at the near right of the table",
    ]


def check_against_simulator(env, observation):
    """Every column but `entities` from the state of the simulator."""
    inner = env.unwrapped
    data, info = inner._data, inner.compute_ob_info()
    pinch = data.site_xpos[inner._pinch_site_id]
    facing = data.site_xmat[inner._pinch_site_id].reshape(3, 3)
    yaw = np.arctan2(facing[1, 0], facing[0, 0])
    near = partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)
    effector = observation["effector"]
    near(effector[:5], [*pinch, np.cos(yaw), np.sin(yaw)])
    near(effector[5:7], np.concatenate([info["proprio/gripper_opening"], info["proprio/gripper_contact"]]))
    near(effector[7:], data.qvel[inner._arm_joint_ids])
    relative = observation["relative"].reshape(-1, 11)
    turns = observation["cube_turns"].reshape(-1, 5)
    for i in range(CUBES[env.name]):
        position = data.joint(f"object_joint_{i}").qpos[:3]
        body = np.zeros(9)
        mujoco.mju_quat2Mat(body, data.joint(f"object_joint_{i}").qpos[3:])
        body = body.reshape(3, 3)
        cube_yaw = np.arctan2(body[1, 0], body[0, 0])
        near(observation["cubes"][3 * i : 3 * i + 3], position)
        near(turns[i], [np.cos(4 * cube_yaw), np.sin(4 * cube_yaw), *body[:, 2]], atol=1e-5)
        d = pinch - position
        near(relative[i, :9], np.concatenate([d, np.tanh(d / 0.03), np.tanh(d / 0.01)]), atol=1e-5)
        near(relative[i, 9:], [np.cos(4 * (yaw - cube_yaw)), np.sin(4 * (yaw - cube_yaw))], atol=1e-5)
    near(observation["raw"], inner.compute_observation())
    if env.name != "scene":
        return
    drawer, window = (data.joint(f"{name}_slide") for name in ("drawer", "window"))
    buttons = [data.joint(f"buttonbox_joint_{i}") for i in range(2)]
    near(observation["buttons"], inner._cur_button_states)
    near(observation["drawer"], drawer.qpos)
    near(observation["window"], window.qpos)
    moving = [*buttons, drawer, window]
    near(observation["fixtures"], [*(b.qpos[0] for b in buttons), *(joint.qvel[0] for joint in moving)])
    sites = [*inner._button_site_ids, inner._drawer_site_id, inner._window_site_id]
    for d, site in zip(observation["fixtures_relative"].reshape(4, 9), sites, strict=True):
        true = pinch - data.site_xpos[site]
        near(d[:3], true, atol=4e-4)  # the hinges' axes are a little askew
        near(d[3:], np.concatenate([np.tanh(d[:3] / 0.03), np.tanh(d[:3] / 0.01)]), atol=1e-5)


def test_columns_are_the_simulators_state(plain):
    observation, _ = plain.reset(seed=3, options={"task_id": 1})
    check_against_simulator(plain, observation)
    for action in np.random.default_rng(0).uniform(-1, 1, (10, 5)):
        observation, *_ = plain.step(action)
        check_against_simulator(plain, observation)


def test_columns_while_the_oracle_moves_things(play):
    _, info = play.reset(seed=1)
    for step in range(150):
        observation, _, _, _, info = play.step(info["expert_action"])
        if step % 10 == 0:
            check_against_simulator(play, observation)


def test_a_cube_looks_the_same_every_quarter_turn_and_shows_its_tilt():
    raw = np.zeros((8, 28))
    yaws = np.array([0.3 + k * np.pi / 2 for k in range(4)] + [-0.8, 0.0, 1.0, 2.0])
    tilts = [0.0] * 4 + [0.5] * 4
    effector = 0.1
    for row, yaw, tilt in zip(raw, yaws, tilts, strict=True):
        matrix = turn([0, 0, 1], yaw) @ turn([0, 1, 0], tilt)
        row[15:17] = np.cos(effector), np.sin(effector)
        row[22:26] = quaternion(matrix)
        row[26:28] = np.cos(yaw), np.sin(yaw)
    named = columns(raw, scene=False)
    np.testing.assert_allclose(named["cube_turns"][:, :2], np.stack([np.cos(4 * yaws), np.sin(4 * yaws)], 1), atol=1e-6)
    ups = [turn([0, 0, 1], y) @ [np.sin(t), 0, np.cos(t)] for y, t in zip(yaws, tilts, strict=True)]
    np.testing.assert_allclose(named["cube_turns"][:, 2:], ups, atol=1e-6)
    np.testing.assert_allclose(named["cube_turns"][:4], np.repeat(named["cube_turns"][:1], 4, 0), atol=1e-6)
    np.testing.assert_allclose(named["relative"][:, 9], np.cos(4 * (effector - yaws)), atol=1e-6)


def test_columns_of_a_batch_are_those_of_its_rows(play):
    raw = episode(play, 4)["raw"].astype(np.float64)
    scene = play.name == "scene"
    batch = columns(raw.reshape(3, 9, -1), scene=scene)
    for i, row in enumerate(raw):
        for name, column in columns(row, scene=scene).items():
            np.testing.assert_array_equal(batch[name][i // 9, i % 9], column)
            assert column.dtype == np.float32


def test_entities_hold_the_raw_state_and_nothing_relative(play):
    observation = {name: rows[-1] for name, rows in episode(play, 2).items()}
    scene, n = play.name == "scene", CUBES[play.name]
    entities = observation["entities"]
    kinds = 5 if scene else 2
    of = [0, *[1] * n, *([2, 2, 3, 4] if scene else [])]
    np.testing.assert_array_equal(entities[:, :kinds], np.eye(kinds)[of])
    state = entities[:, kinds:]
    np.testing.assert_array_equal(state[0], observation["effector"])
    for i in range(n):
        row = [*observation["cubes"].reshape(n, 3)[i], *observation["cube_turns"].reshape(n, 5)[i]]
        np.testing.assert_array_equal(state[1 + i], [*row, *np.zeros(5)])
    if scene:
        fixtures = observation["fixtures"]
        for i in range(2):
            np.testing.assert_array_equal(state[2 + i, 3:6], [observation["buttons"][i], *fixtures[[i, 2 + i]]])
        np.testing.assert_array_equal(state[4, 3:5], [observation["drawer"][0], fixtures[4]])
        np.testing.assert_array_equal(state[5, 3:5], [observation["window"][0], fixtures[5]])
        where = observation["effector"][:3] - observation["fixtures_relative"].reshape(4, 9)[:, :3]
        np.testing.assert_allclose(state[2:, :3], where, atol=1e-6)
        assert not state[2:4, 6:].any()
        assert not state[4:, 5:].any()


def test_reset_is_reproducible_whatever_came_before(plain):
    np.random.seed(1)  # noqa: NPY002
    first = episode(plain, 5, task=2)
    np.random.seed(2)  # noqa: NPY002
    episode(plain, 6, steps=5, task=3)
    assert_same(episode(plain, 5, task=2), first)
    assert_same(episode(Manipulation(name=plain.name), 5, task=2), first)


def test_collecting_is_reproducible_whatever_came_before(play):
    np.random.seed(1)  # noqa: NPY002
    first = episode(play, 5, steps=120)
    np.random.seed(2)  # noqa: NPY002
    episode(play, 6, steps=60)
    assert_same(episode(play, 5, steps=120), first)
    assert_same(episode(Manipulation(name=play.name, behaviour="play"), 5, steps=120), first)


def test_two_copies_do_not_touch_one_another(scene):
    alone = episode(scene, 5, steps=40)
    other = Manipulation(name="scene", behaviour="play")
    observation, mine = scene.reset(seed=5)
    _, theirs = other.reset(seed=9)
    for row in range(40):
        observation, _, _, _, mine = scene.step(mine["expert_action"])
        _, _, _, _, theirs = other.step(theirs["expert_action"])
        np.testing.assert_array_equal(observation["raw"], alone["raw"][row + 2])


def test_the_global_generator_is_left_alone(plain, play):
    for env in (plain, play):
        before = np.random.get_state()  # noqa: NPY002
        episode(env, 3)
        assert same_state(before, np.random.get_state())  # noqa: NPY002


def test_different_seeds_differ(plain):
    starts = np.stack([plain.reset(seed=seed)[0]["cubes"] for seed in range(4)])
    assert len(np.unique(starts, axis=0)) == 4


def test_the_goal_of_a_task_is_that_of_ogbench(plain):
    for task in range(1, 6):
        observation, info = plain.reset(seed=task, options={"task_id": task})
        inner = plain.unwrapped
        assert inner.cur_task_id == task
        targets = [inner._data.mocap_pos[i] for i in inner._cube_target_mocap_ids]
        # two random steps lie between the exact goal and its observation
        np.testing.assert_allclose(info["goal"]["cubes"].reshape(-1, 3), targets, atol=0.01)
        if plain.name == "scene":
            goal = inner.cur_task_info["goal"]
            np.testing.assert_array_equal(info["goal"]["buttons"], goal["button_states"])
            assert info["goal"]["drawer"] == pytest.approx(goal["drawer_pos"], abs=0.01)
            assert info["goal"]["window"] == pytest.approx(goal["window_pos"], abs=0.01)
        part = [name for name in GOAL if name in observation]
        differ = [np.abs(observation[name] - info["goal"][name]).max() for name in part]
        assert max(differ) > 0.04  # there is something to do


def solve(env, seed, task):
    """Steps that the plan oracle takes to the goal of a cube task, or None."""
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

    env.reset(seed=seed, options={"task_id": task})
    inner = env.unwrapped
    oracle, raw = CubePlanOracle(env=inner, noise=0), None
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        for step in range(env.max_steps):
            ob_info = inner.compute_ob_info()
            if step == 0 or oracle.done:
                target = inner._cube_target_mocap_ids[0]
                ob_info["privileged/target_block"] = 0
                ob_info["privileged/target_block_pos"] = inner._data.mocap_pos[target].copy()
                ob_info["privileged/target_block_yaw"] = np.zeros(1)
                oracle.reset(raw, ob_info)
            _, _, terminated, _, info = env.step(oracle.select_action(raw, ob_info))
            assert terminated == info["success"]
            if terminated:
                return step + 1
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return None


@pytest.mark.parametrize("task", [1, 3, 5])
def test_a_task_can_be_solved_within_its_limit(task):
    env = Manipulation(name="cube-single")
    assert any(solve(env, seed, task) for seed in range(3))


def test_the_oracle_moves_one_thing_after_another(play):
    """It reaches most of its targets, and has every kind of them."""
    plans, tasks = [], set()
    for seed in range(3):
        _, info = play.reset(seed=seed)
        plan = None
        for _ in range(600):
            if play._oracle._plan is not plan:
                plan = play._oracle._plan
                plans.append(False)
                tasks.add(play.unwrapped._target_task)
            observation, _, ended, _, info = play.step(info["expert_action"])
            plans[-1] |= info["success"]
            assert not ended
            assert "goal" not in info
    assert tasks == ({"cube", "button", "drawer", "window"} if play.name == "scene" else {"cube"})
    assert len(plans) > 12
    assert np.mean(plans) > 0.6
    assert np.isfinite(observation["raw"]).all()


def test_a_lost_cube_ends_the_episode_of_a_scene(scene):
    _, info = scene.reset(seed=0)
    for y, z, ended in ((0.1, 0.02, False), (0.3, 0.02, True), (-0.32, 0.07, False), (-0.32, 0.3, True)):
        scene.reset(seed=0)
        cube = scene.unwrapped._data.joint("object_joint_0")
        cube.qpos[:3] = 0.33, y, z
        cube.qvel[:] = 0
        assert scene.step(info["expert_action"])[2] is ended


def test_data_do_not_depend_on_workers():
    for name in ("cube-single", "scene"):
        make_env = partial(Manipulation, name=name, behaviour="play")
        collection = Collection(make_env, partial(NoisyExpertPolicy, noise=0.0), 3, 60, 0, "state", num_envs=2)
        alone, together = (list(collect(collection, workers)) for workers in (1, 2))
        for left, right in zip(alone, together, strict=True):
            assert_same(left, right)
            assert np.abs(left["action"]).max() <= 1
            assert {column.dtype for column in left.values()} == {np.dtype(np.float32)}


def test_in_a_vector_environment():
    envs = make_vector(partial(Manipulation, name="cube-double"), 2)
    observations, infos = envs.reset(seed=[0, 1], options={"task_id": 1, "episode": [0, 1]})
    assert observations["cubes"].shape == infos["goal"]["cubes"].shape == (2, 6)
    _, _, _, _, infos = envs.step(np.zeros((2, 5), np.float32))
    assert infos["success"].tolist() == infos["ended"].tolist() == [False, False]
    envs.close()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="name is 'cube-octuple'; expected one of cube-single"):
        Manipulation(name="cube-octuple")
    with pytest.raises(ValueError, match="behaviour is 'noisy'; expected null or play"):
        Manipulation(name="scene", behaviour="noisy")
    with pytest.raises(ValueError, match="task_id is 6; expected 1 to 5"):
        Manipulation(name="cube-single").reset(options={"task_id": 6})
