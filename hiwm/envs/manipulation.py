"""OGBench's cubes, scene and puzzles: seeded, with named columns and the published data-collection recipe.

Source: OGBench (Park et al., ICLR 2025, arXiv 2410.20092), `data_gen_scripts/generate_manipspace.py`. OGBench's plan oracles
reach one random target after another; their plans have a noise of 0.1 and a smoothing of 0.5. One difference: the recipe
discards a scene episode in which the cube gets lost, and here the episode ends at that point.

Observations are the columns of `hiwm.envs.manipulation_columns`. A goal specifies `cubes`, in the scene also `buttons`,
`drawer` and `window`, in a puzzle `buttons` alone. Success: all within 4 cm, buttons exactly. In a puzzle a button also
switches its neighbours, as in the game Lights Out.
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
from hiwm.envs.manipulation_columns import columns

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # dm_control warns that there is no screen, which is not needed
    from ogbench.manipspace.envs.cube_env import CubeEnv
    from ogbench.manipspace.envs.puzzle_env import PuzzleEnv
    from ogbench.manipspace.envs.scene_env import SceneEnv
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

Observation = dict[str, np.ndarray]

NAMES = ("cube-single", "cube-double", "cube-triple", "scene", "puzzle-3x3", "puzzle-4x4", "puzzle-4x5")
ORACLES = {
    "cube": CubePlanOracle,
    "button": ButtonPlanOracle,
    "drawer": DrawerPlanOracle,
    "window": WindowPlanOracle,
}
NOISE, SMOOTHING = 0.1, 0.5  # of the plans of the oracles
# range of the fraction of an episode's targets that lie on another cube
STACKING = {"cube-double": (0.0, 0.25), "cube-triple": (0.05, 0.35)}
OUT_RIGHT, OUT_LEFT = 0.29, -0.3  # m: a cube with a y beyond these is out of the camera's sight
DRAWER_FLOOR = (0.06, 0.08)  # m: z of a cube in the drawer, which may be beyond OUT_LEFT


class Manipulation(gymnasium.Wrapper):
    """One OGBench manipulation environment.

    `reset(seed)` is exact: OGBench's oracles draw from the global generator of numpy, which is replaced meanwhile.
    An action is a relative motion (x, y, z, yaw, opening) in units of (5 cm, 5 cm, 5 cm, 0.3 rad, 1); a step takes 0.05 s.

    Args:
        name: cube-single, cube-double, cube-triple, scene, puzzle-3x3, puzzle-4x4 or puzzle-4x5.
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
        shapes = {key: column.shape for key, column in self._columns(self.env.compute_observation()).items()}
        boxes: Any = {key: gymnasium.spaces.Box(-np.inf, np.inf, shape) for key, shape in shapes.items()}
        self.observation_space = gymnasium.spaces.Dict(boxes)
        self.action_space = self.env.action_space
        self._random = np.random.RandomState(0)
        plan = {"env": self.env, "noise": NOISE, "noise_smoothing": SMOOTHING}
        self._oracles = {task: oracle(**plan) for task, oracle in ORACLES.items()}
        if name.startswith("puzzle"):  # nothing to grasp
            self._oracles["button"] = ButtonPlanOracle(**plan, gripper_always_closed=True)

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
        return columns(raw, self.name)


def _is_lost(cube: np.ndarray) -> bool:
    """Whether the cube of a scene is out of sight and not in the drawer; the same check as in the recipe."""
    low, high = DRAWER_FLOOR
    return bool(cube[1] >= OUT_RIGHT or (cube[1] <= OUT_LEFT and not low <= cube[2] <= high))


class _Cubes(CubeEnv):
    # OGBench makes a new, unseeded space at every access and draws the last steps to a goal from it
    action_space: Any = None


class _Puzzle(PuzzleEnv):
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
    data = copy.deepcopy(compiled._data)  # with a copy of the model (60 MB), so that no second one is needed
    made = {id(part): part for key, part in vars(compiled).items() if key.endswith(shared)}
    return copy.deepcopy(compiled, {**made, id(compiled._data): data, id(compiled._model): data.model})


@functools.cache
def _compiled(name: str, mode: str) -> Any:
    """OGBench's environment after its first reset; it takes a second to compile and milliseconds to copy."""
    kind = {"cube": _Cubes, "scene": _Scene, "puzzle": _Puzzle}[name.split("-")[0]]
    env: Any = kind(**_spec(name).kwargs, mode=mode)
    env.action_space = gymnasium.spaces.Box(-1, 1, (5,), np.float32)
    env.reset(seed=0, options={"task_id": 1})
    return env
