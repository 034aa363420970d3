from functools import partial

import mujoco
import numpy as np
from manipulation_tools import BUTTONS, CUBES, episode

from hiwm.envs.manipulation_captions import describe
from hiwm.envs.manipulation_columns import columns


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
    near(observation["position"], pinch)
    near(effector[:5], [*pinch, np.cos(yaw), np.sin(yaw)])
    near(effector[5:7], np.concatenate([info["proprio/gripper_opening"], info["proprio/gripper_contact"]]))
    near(effector[7:], data.qvel[inner._arm_joint_ids])
    for i in range(CUBES[env.name]):
        relative = observation["relative"].reshape(-1, 11)
        turns = observation["cube_turns"].reshape(-1, 5)
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
    if env.name not in BUTTONS:
        return
    buttons, slides = [data.joint(f"buttonbox_joint_{i}") for i in range(BUTTONS[env.name])], []
    sites = list(inner._button_site_ids)
    near(observation["buttons"], inner._cur_button_states)
    if env.name == "scene":
        slides = [data.joint(f"{name}_slide") for name in ("drawer", "window")]
        sites += [inner._drawer_site_id, inner._window_site_id]
        near(observation["drawer"], slides[0].qpos)
        near(observation["window"], slides[1].qpos)
    moving = [*buttons, *slides]
    near(observation["fixtures"], [*(b.qpos[0] for b in buttons), *(joint.qvel[0] for joint in moving)])
    for d, site in zip(observation["fixtures_relative"].reshape(-1, 9), sites, strict=True):
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
    named = columns(raw, "cube-single")
    np.testing.assert_allclose(named["cube_turns"][:, :2], np.stack([np.cos(4 * yaws), np.sin(4 * yaws)], 1), atol=1e-6)
    ups = [turn([0, 0, 1], y) @ [np.sin(t), 0, np.cos(t)] for y, t in zip(yaws, tilts, strict=True)]
    np.testing.assert_allclose(named["cube_turns"][:, 2:], ups, atol=1e-6)
    np.testing.assert_allclose(named["cube_turns"][:4], np.repeat(named["cube_turns"][:1], 4, 0), atol=1e-6)
    np.testing.assert_allclose(named["relative"][:, 9], np.cos(4 * (effector - yaws)), atol=1e-6)


def test_columns_of_a_batch_are_those_of_its_rows(play):
    raw = episode(play, 4)["raw"].astype(np.float64)
    batch = columns(raw.reshape(3, 9, -1), play.name)
    for i, row in enumerate(raw):
        for name, column in columns(row, play.name).items():
            np.testing.assert_array_equal(batch[name][i // 9, i % 9], column)
            assert column.dtype == np.float32


def test_entities_hold_the_raw_state_and_nothing_relative(play):
    observation = {name: rows[-1] for name, rows in episode(play, 2).items()}
    scene, n, b = play.name == "scene", CUBES[play.name], BUTTONS.get(play.name, 0)
    entities = observation["entities"]
    kinds = 5 if scene else 2
    of = [0, *[1] * n, *[kinds - 3 if scene else 1] * b, *([3, 4] if scene else [])]
    np.testing.assert_array_equal(entities[:, :kinds], np.eye(kinds)[of])
    state = entities[:, kinds:]
    np.testing.assert_array_equal(state[0], observation["effector"])
    for i in range(n):
        row = [*observation["cubes"].reshape(n, 3)[i], *observation["cube_turns"].reshape(n, 5)[i]]
        np.testing.assert_array_equal(state[1 + i], [*row, *np.zeros(5)])
    for i in range(b):
        moving = observation["fixtures"][[i, b + i]]
        np.testing.assert_array_equal(state[1 + n + i, 3:6], [observation["buttons"][i], *moving])
        assert not state[1 + n + i, 6:].any()
    if b:
        where = observation["effector"][:3] - observation["fixtures_relative"].reshape(-1, 9)[:, :3]
        np.testing.assert_allclose(state[1 + n :, :3], where, atol=1e-6)
    if scene:
        fixtures = observation["fixtures"]
        np.testing.assert_array_equal(state[4, 3:5], [observation["drawer"][0], fixtures[4]])
        np.testing.assert_array_equal(state[5, 3:5], [observation["window"][0], fixtures[5]])
        assert not state[4:, 5:].any()


def test_captions_of_a_puzzle_name_its_buttons():
    captions = describe({"buttons": np.array([[1, 0, 1], [0, 0, 1]])})
    true = {caption.wordings[0]: np.flatnonzero(caption.true).tolist() for caption in captions}
    assert true["the button number 1 is blue"] == [0]
    assert true["the button number 1 is red"] == [1]
    assert true["the button number 2 is blue"] == []
    assert true["the button number 3 is blue"] == [0, 1]
