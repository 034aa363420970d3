"""OGBench's cubes and scene: seeded, with named columns and the published data-collection recipe.

Source: OGBench (Park et al., ICLR 2025, arXiv 2410.20092), `data_gen_scripts/generate_manipspace.py`. OGBench's plan oracles
reach one random target after another; their plans have a noise of 0.1 and a smoothing of 0.5. One difference: the recipe
discards a scene episode in which the cube gets lost, and here the episode ends at that point.

Observations are a dict of float32 columns in metres (world frame) and seconds, for N cubes one after another:

    effector           (13)    xyz; cos and sin of the yaw; opening and contact, 0 to 1; six joint velocities, rad/s
    cubes              (3 N)   xyz
    cube_turns         (5 N)   cos and sin of four times the yaw (a cube looks the same every 90 degrees); up-vector
    relative           (11 N)  d = effector - cube; tanh(d / 3 cm); tanh(d / 1 cm); cos and sin of four times the
                               difference of the yaws of effector and cube
    entities           (E, F)  effector, cubes, then the scene's two buttons, drawer and window: kind (one-hot), xyz (for
                               a fixture, the point to grasp), other state, zero padding
    raw                (R)     the observation of OGBench

and, in the scene,

    buttons            (2)     states; 0 locks and 1 unlocks the drawer (button 0) or the window (button 1)
    drawer             (1)     -0.16 (open) to 0
    window             (1)     0 to 0.2 (open)
    fixtures           (6)     depths and velocities of the buttons; velocities of drawer and window
    fixtures_relative  (36)    for button 0, button 1, drawer and window: the first nine entries of `relative`

A goal specifies `cubes`, in the scene also `buttons`, `drawer` and `window`. Success: all within 4 cm, buttons exactly.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np

from hiwm.envs.captions import Caption
from hiwm.envs.generator import lend_generator
from hiwm.envs.manipulation_captions import describe

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # dm_control warns that there is no screen, which is not needed
    from ogbench.manipspace.envs.cube_env import CubeEnv
    from ogbench.manipspace.envs.scene_env import SceneEnv
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

Observation = dict[str, np.ndarray]

NAMES = ("cube-single", "cube-double", "cube-triple", "scene")
ORACLES = {
    "cube": CubePlanOracle,
    "button": ButtonPlanOracle,
    "drawer": DrawerPlanOracle,
    "window": WindowPlanOracle,
}
NOISE, SMOOTHING = 0.1, 0.5  # of the plans of the oracles
# range of the fraction of an episode's targets that lie on another cube
STACKING = {"cube-double": (0.0, 0.25), "cube-triple": (0.05, 0.35)}
ROBOT, CUBE, BUTTON, SLIDE = 19, 9, 4, 2  # entries of OGBench's observation
CENTRE = np.array([0.425, 0.0, 0.0])  # origin (m) of the positions in OGBench's observation,
POSITIONS, OPENING, DEPTH, DRAWER, WINDOW = 10.0, 3.0, 120.0, 18.0, 15.0  # and its factors
BUTTON_TOPS = np.array([[0.58, -0.05006, 0.1254], [0.58, 0.04994, 0.1212]])
DRAWER_HANDLE = np.array([0.3303, -0.24, 0.08])  # closed; it opens towards +y
WINDOW_HANDLE = np.array([0.286, 0.225, 0.237])  # closed; it opens towards +x
COARSE, FINE = 0.03, 0.01  # m: about the reach and the tolerance of a grasp
OUT_RIGHT, OUT_LEFT = 0.29, -0.3  # m: a cube with a y beyond these is out of the camera's sight
DRAWER_FLOOR = (0.06, 0.08)  # m: z of a cube in the drawer, which may be beyond OUT_LEFT


class Manipulation(gymnasium.Wrapper):
    """One OGBench manipulation environment; the module docstring lists the columns of its observations.

    `reset(seed)` is exact: OGBench's oracles draw from the global generator of numpy, which is replaced meanwhile.
    An action is a relative motion (x, y, z, yaw, opening) in units of (5 cm, 5 cm, 5 cm, 0.3 rad, 1); a step takes 0.05 s.

    Args:
        name: cube-single, cube-double, cube-triple or scene.
        behaviour: `play` collects data: infos hold the `expert_action` of OGBench's plan oracle, which reaches one target
            after another, and no goal. None is for evaluation.
    """

    num_tasks = 5

    def __init__(self, *, name: str, behaviour: str | None = None) -> None:
        if name not in NAMES:
            raise ValueError(f"name is {name!r}; expected one of {', '.join(NAMES)}")
        if behaviour not in (None, "play"):
            raise ValueError(f"behaviour is {behaviour!r}; expected null or play")
        self.env: Any  # OGBench's class
        super().__init__(_make(name, "task" if behaviour is None else "data_collection"))
        self.name, self.behaviour = name, behaviour
        self.max_steps: int = _spec(name).max_episode_steps  # OGBench's episode length
        size = ROBOT + CUBE * self.env._num_cubes + (2 * BUTTON + 2 * SLIDE) * (name == "scene")
        shapes = {key: column.shape for key, column in self._columns(np.zeros(size)).items()}
        boxes: Any = {key: gymnasium.spaces.Box(-np.inf, np.inf, shape) for key, shape in shapes.items()}
        self.observation_space = gymnasium.spaces.Dict(boxes)
        self.action_space = self.env.action_space
        self._random = np.random.RandomState(0)
        self._oracles = {
            task: oracle(env=self.env, noise=NOISE, noise_smoothing=SMOOTHING) for task, oracle in ORACLES.items()
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        if seed is not None:
            self._random = np.random.RandomState(seed)
            self.env.action_space.seed(seed)
        if not 1 <= (task := (options or {}).get("task_id", 1)) <= self.num_tasks:
            raise ValueError(f"task_id is {task}; expected 1 to {self.num_tasks}")
        raw, info = self.env.reset(seed=seed, options={"task_id": task})
        if self.behaviour is None:
            return self._columns(raw), {"goal": self._columns(info["goal"])}
        self._stacking = self._random.uniform(*STACKING.get(self.name, (0.0, 0.0)))
        self._start_oracle(raw, info)
        return self._columns(raw), {"expert_action": self._oracle.select_action(raw, info)}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict]:
        raw, reward, terminated, truncated, info = self.env.step(action)
        own_info = {"success": bool(info["success"])}
        if self.behaviour is not None:
            terminated = self.name == "scene" and _is_lost(info["privileged/block_0_pos"])
            if self._oracle.done:
                self._start_oracle(*self.env.set_new_target(p_stack=self._stacking))
            own_info["expert_action"] = self._oracle.select_action(raw, info)
        return self._columns(raw), float(reward), bool(terminated), truncated, own_info

    def captions(self, observations: Mapping[str, np.ndarray]) -> list[Caption]:
        """Positions of the cubes and states of the fixtures, in words."""
        return describe(observations)

    def _start_oracle(self, raw: np.ndarray, info: dict[str, Any]) -> None:
        self._oracle = self._oracles[info["privileged/target_task"]]
        with lend_generator(self._random):
            self._oracle.reset(raw, info)

    def _columns(self, raw: np.ndarray) -> Observation:
        return columns(raw, scene=self.name == "scene")


def columns(raw: np.ndarray, *, scene: bool) -> Observation:
    """OGBench's observations (..., R) as named columns (..., C), float32; the module docstring lists them."""
    robot, cube, fixtures = np.split(raw, [ROBOT, raw.shape[-1] - (2 * BUTTON + 2 * SLIDE) * scene], -1)
    cube = cube.reshape(*raw.shape[:-1], -1, CUBE)  # (..., N, 9)
    position, yaw = robot[..., 12:15] / POSITIONS + CENTRE, robot[..., 15:17]
    opening, contact, velocities = robot[..., 17:18] / OPENING, robot[..., 18:19], robot[..., 6:12]
    effector = np.concatenate([position, yaw, opening, contact, velocities], -1)
    cubes = cube[..., :3] / POSITIONS + CENTRE
    turn, cube_turn = _quadruple(yaw)[..., None], _quadruple(cube[..., 7:9])
    cube_turns = np.concatenate([_parts(cube_turn), _up(cube[..., 3:7])], -1)
    relative = np.concatenate([_offsets(position, cubes), _parts(turn * cube_turn.conj())], -1)
    objects = [effector[..., None, :], np.concatenate([cubes, cube_turns], -1)]
    flat = {"effector": effector, "cubes": cubes, "cube_turns": cube_turns, "relative": relative, "raw": raw}
    if scene:
        buttons, slides = np.split(fixtures, [2 * BUTTON], -1)
        buttons = buttons.reshape(*raw.shape[:-1], 2, BUTTON)  # not pressed, pressed, depth, velocity
        drawer, window = slides[..., :1] / DRAWER, slides[..., 2:3] / WINDOW
        depth, velocity, slide_velocities = buttons[..., 2] / DEPTH, buttons[..., 3], slides[..., 1::2]
        tops = np.broadcast_to(BUTTON_TOPS, (*raw.shape[:-1], 2, 3))
        handles = np.stack([DRAWER_HANDLE - drawer * [0, 1, 0], WINDOW_HANDLE + window * [1, 0, 0]], -2)
        flat["buttons"], flat["drawer"], flat["window"] = buttons[..., 1], drawer, window
        flat["fixtures"] = np.concatenate([depth, velocity, slide_velocities], -1)
        flat["fixtures_relative"] = _offsets(position, np.concatenate([tops, handles], -2))
        states = np.stack([np.concatenate([drawer, window], -1), slide_velocities], -1)
        slide = np.concatenate([handles, states], -1)
        objects += [
            np.concatenate([tops, buttons[..., 1:2], depth[..., None], velocity[..., None]], -1),
            slide[..., :1, :],
            slide[..., 1:, :],
        ]
    lead = raw.ndim - 1
    named = {key: column.reshape(*raw.shape[:-1], -1) for key, column in flat.items()}
    named["entities"] = _entities(objects, lead)
    return {key: column.astype(np.float32) for key, column in named.items()}


def _entities(objects: list[np.ndarray], lead: int) -> np.ndarray:
    """Objects of all kinds in one array: (..., n, C) with different C -> (..., E, kinds + largest C)."""
    most = max(kind.shape[-1] for kind in objects)
    rows = []
    for which, kind in enumerate(objects):
        hot = np.broadcast_to(np.eye(len(objects))[which], (*kind.shape[:-1], len(objects)))
        zeros = np.zeros((*kind.shape[:-1], most - kind.shape[-1]))
        rows.append(np.concatenate([hot, kind, zeros], -1))
    return np.concatenate(rows, lead)


def _offsets(position: np.ndarray, things: np.ndarray) -> np.ndarray:
    """Offsets of the effector from things at three scales: (..., 3), (..., N, 3) -> (..., N, 9)."""
    d = position[..., None, :] - things
    return np.concatenate([d, np.tanh(d / COARSE), np.tanh(d / FINE)], -1)


def _quadruple(yaw: np.ndarray) -> np.ndarray:
    """(cos, sin) of a yaw, (..., 2), as the complex number of four times the yaw, (...)."""
    return (yaw[..., 0] + 1j * yaw[..., 1]) ** 4


def _parts(turn: np.ndarray) -> np.ndarray:
    """Complex (...) -> (cos, sin), (..., 2)."""
    return np.stack([np.real(turn), np.imag(turn)], -1)


def _up(quaternion: np.ndarray) -> np.ndarray:
    """Direction of the body's z axis: quaternion (w, x, y, z), (..., 4) -> (..., 3)."""
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    return np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], -1)


def _is_lost(cube: np.ndarray) -> bool:
    """Whether the cube of a scene is out of sight and not in the drawer; the same check as in the recipe."""
    low, high = DRAWER_FLOOR
    return bool(cube[1] >= OUT_RIGHT or (cube[1] <= OUT_LEFT and not low <= cube[2] <= high))


class _Cubes(CubeEnv):
    # OGBench makes a new, unseeded space at every access and draws the last steps to a goal from it
    action_space: Any = None


class _Scene(SceneEnv):
    action_space: Any = None
    simulator: Any = mujoco  # compiled, without types

    def initialize_episode(self) -> None:
        # a button locks by a damping in the model, which outlives the episode and would change the solver's first guess
        self._cur_button_states = np.zeros(self._num_buttons, int)
        self._apply_button_states()
        self.simulator.mj_resetData(self._model, self._data)
        self.simulator.mj_forward(self._model, self._data)
        super().initialize_episode()


def _spec(name: str) -> Any:
    return gymnasium.spec(f"{name}-v0")


def _make(name: str, mode: str) -> Any:
    """A copy of the compiled environment."""
    compiled = _compiled(name, mode)
    # shared: the source of the model is no longer used and cannot be copied; inverse kinematics has no state
    shared = ("_mjcf_model", "_jnts", "_acts", "_geoms_list", "_ik")
    return copy.deepcopy(compiled, {id(part): part for key, part in vars(compiled).items() if key.endswith(shared)})


@functools.cache
def _compiled(name: str, mode: str) -> Any:
    """OGBench's environment after its first reset; it takes a second to compile and milliseconds to copy."""
    kind = _Scene if name == "scene" else _Cubes
    env: Any = kind(**_spec(name).kwargs, mode=mode)
    env.action_space = gymnasium.spaces.Box(-1, 1, (5,), np.float32)
    env.reset(seed=0, options={"task_id": 1})
    return env
