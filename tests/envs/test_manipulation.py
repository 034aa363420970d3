from functools import partial

import gymnasium
import numpy as np
import pytest
from manipulation_tools import BUTTONS, CUBES, episode

from hiwm.data.collect import Collection, collect
from hiwm.data.policies import NoisyExpertPolicy
from hiwm.data.vector import make_vector
from hiwm.envs.manipulation import Manipulation

GOAL = ("cubes", "buttons", "drawer", "window")


def assert_same(left, right):
    assert list(left) == list(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def same_state(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


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
    n, b, slides = CUBES[plain.name], BUTTONS.get(plain.name, 0), 2 * (plain.name == "scene")
    shapes = {name: space.shape for name, space in plain.observation_space.items()}
    assert shapes == {
        "effector": (13,),
        "position": (3,),
        **({"cubes": (3 * n,), "cube_turns": (5 * n,), "relative": (11 * n,)} if n else {}),
        **({"buttons": (b,), "fixtures": (2 * b + slides,), "fixtures_relative": (9 * (b + slides),)} if b else {}),
        **({"drawer": (1,), "window": (1,)} if slides else {}),
        "entities": (1 + n + b + slides, 18 if slides else 15),
        "raw": (19 + 9 * n + 4 * b + 2 * slides,),
    }


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


def test_a_copy_has_one_model_of_its_own(scene):
    # 60 MB, which each of many parallel environments needs once
    other = Manipulation(name="scene", behaviour="play").unwrapped
    for env in (scene.unwrapped, other):
        assert env._model is env._data.model
    before = scene.unwrapped._model.dof_damping.copy()
    other._model.dof_damping[:] += 1
    np.testing.assert_array_equal(scene.unwrapped._model.dof_damping, before)


def test_the_global_generator_is_left_alone(plain, play):
    for env in (plain, play):
        before = np.random.get_state()  # noqa: NPY002
        episode(env, 3)
        assert same_state(before, np.random.get_state())  # noqa: NPY002


def test_different_seeds_differ(plain):
    starts = np.stack([plain.reset(seed=seed)[0]["raw"] for seed in range(4)])
    assert len(np.unique(starts, axis=0)) == 4


def test_the_goal_of_a_task_is_that_of_ogbench(plain):
    for task in range(1, 6):
        observation, info = plain.reset(seed=task, options={"task_id": task})
        inner = plain.unwrapped
        assert inner.cur_task_id == task
        if CUBES[plain.name]:
            targets = [inner._data.mocap_pos[i] for i in inner._cube_target_mocap_ids]
            # two random steps lie between the exact goal and its observation
            np.testing.assert_allclose(info["goal"]["cubes"].reshape(-1, 3), targets, atol=0.01)
        else:
            np.testing.assert_array_equal(observation["buttons"], inner.cur_task_info["init_button_states"])
            np.testing.assert_array_equal(info["goal"]["buttons"], inner.cur_task_info["goal_button_states"])
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
    kinds = {"scene": {"cube", "button", "drawer", "window"}, "puzzle-3x3": {"button"}, "cube-double": {"cube"}}
    assert tasks == kinds[play.name]
    assert len(plans) > 12
    assert np.mean(plans) > 0.6
    assert np.isfinite(observation["raw"]).all()


def test_a_button_of_a_puzzle_switches_its_neighbours():
    env = Manipulation(name="puzzle-3x3", behaviour="play")
    before, info = env.reset(seed=0)
    pressed, toggled = [], []
    for _ in range(300):
        after, _, _, _, info = env.step(info["expert_action"])
        if (after["buttons"] != before["buttons"]).any():
            pressed.append(int(before["fixtures"][:9].argmin()))
            toggled.append(np.flatnonzero(after["buttons"] != before["buttons"]).tolist())
        before = after
    assert len(pressed) > 5
    for button, switched in zip(pressed, toggled, strict=True):
        row, column = divmod(button, 3)
        near = [(row, column), (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        assert switched == sorted(3 * i + j for i, j in near if 0 <= i < 3 and 0 <= j < 3)


def test_a_puzzle_is_solved_by_the_presses_that_solve_lights_out():
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle

    env = Manipulation(name="puzzle-3x3")
    env.reset(seed=0, options={"task_id": 1})
    inner, steps = env.unwrapped, 0
    for button in (0, 8):
        oracle = ButtonPlanOracle(env=inner, noise=0, gripper_always_closed=True)
        info = inner.compute_ob_info()
        info["privileged/target_button_top_pos"] = inner._data.site_xpos[inner._button_site_ids[button]].copy()
        oracle.reset(None, info)
        while not oracle.done:
            _, _, ended, _, info_of_step = env.step(oracle.select_action(None, inner.compute_ob_info()))
            steps += 1
            if ended:
                break
    assert info_of_step["success"]
    assert steps < 100


def test_a_lost_cube_ends_the_episode_of_a_scene(scene):
    _, info = scene.reset(seed=0)
    for y, z, ended in ((0.1, 0.02, False), (0.3, 0.02, True), (-0.32, 0.07, False), (-0.32, 0.3, True)):
        scene.reset(seed=0)
        cube = scene.unwrapped._data.joint("object_joint_0")
        cube.qpos[:3] = 0.33, y, z
        cube.qvel[:] = 0
        assert scene.step(info["expert_action"])[2] is ended


def test_data_do_not_depend_on_workers():
    for name in ("cube-single", "scene", "puzzle-3x3"):
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
