"""Named columns of OGBench's manipulation environments.

Float32, in metres (world frame) and seconds, for N cubes and B buttons, one after another:

    effector           (13)      xyz; cos and sin of the yaw; opening and contact, 0 to 1; six joint velocities, rad/s
    position           (3)       xyz of the effector
    entities           (E, F)    effector, cubes, buttons, then the scene's drawer and window: kind (one-hot), xyz (for a
                                 fixture, the point to touch), other state, zero padding
    raw                (R)       the observation of OGBench

with cubes

    cubes              (3 N)     xyz
    cube_turns         (5 N)     cos and sin of four times the yaw (a cube looks the same every 90 degrees); up-vector
    relative           (11 N)    d = effector - cube; tanh(d / 3 cm); tanh(d / 1 cm); cos and sin of four times the
                                 difference of the yaws of effector and cube

and with buttons, which are 2 in the scene; drawer and window are the scene's alone:

    buttons            (B)       states; in the scene, 0 locks and 1 unlocks the drawer (button 0) or the window (button 1)
    drawer             (1)       -0.16 (open) to 0
    window             (1)       0 to 0.2 (open)
    fixtures           (2 B)     depths and velocities of the buttons; in the scene (6) also velocities of drawer and window
    fixtures_relative  (9 B)     d = effector - button; tanh(d / 3 cm); tanh(d / 1 cm); in the scene (36) also for drawer and window
"""

from __future__ import annotations

import numpy as np

ROBOT, CUBE, BUTTON, SLIDE = 19, 9, 4, 2  # entries of OGBench's observation
CENTRE = np.array([0.425, 0.0, 0.0])  # origin (m) of the positions in OGBench's observation,
POSITIONS, OPENING, DEPTH, DRAWER, WINDOW = 10.0, 3.0, 120.0, 18.0, 15.0  # and its factors
SCENE_BUTTONS = np.array([[0.58, -0.05006, 0.1254], [0.58, 0.04994, 0.1212]])
DRAWER_HANDLE = np.array([0.3303, -0.24, 0.08])  # closed; it opens towards +y
WINDOW_HANDLE = np.array([0.286, 0.225, 0.237])  # closed; it opens towards +x
PUZZLE_SPACING, PUZZLE_HEIGHT = 0.1, 0.1254  # m, of the buttons of a puzzle, around `CENTRE`
COARSE, FINE = 0.03, 0.01  # m: about the reach and the tolerance of a grasp


def _grid(name: str) -> tuple[int, int]:
    """Rows and columns of a puzzle's buttons, for instance (3, 3) of puzzle-3x3."""
    rows, columns = name.removeprefix("puzzle-").split("x")
    return int(rows), int(columns)


def button_tops(name: str) -> np.ndarray:
    """Where the buttons are pressed, (B, 3)."""
    if name == "scene":
        return SCENE_BUTTONS
    if not name.startswith("puzzle"):
        return np.zeros((0, 3))
    rows, columns = _grid(name)
    x, y = np.meshgrid(np.arange(rows) - (rows - 1) / 2, np.arange(columns) - (columns - 1) / 2, indexing="ij")
    offsets = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], -1) * PUZZLE_SPACING
    return CENTRE + offsets + [0, 0, PUZZLE_HEIGHT]


def columns(raw: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """OGBench's observations (..., R) of the environment `name` as named columns (..., C), float32."""
    tops, slides = button_tops(name), 2 * (name == "scene")
    fixtures = BUTTON * len(tops) + SLIDE * slides
    robot, cube, fixture = np.split(raw, [ROBOT, raw.shape[-1] - fixtures], -1)
    lead, position, yaw = raw.shape[:-1], robot[..., 12:15] / POSITIONS + CENTRE, robot[..., 15:17]
    opening, contact, velocities = robot[..., 17:18] / OPENING, robot[..., 18:19], robot[..., 6:12]
    effector = np.concatenate([position, yaw, opening, contact, velocities], -1)
    flat, objects = {"effector": effector, "position": position}, [effector[..., None, :]]
    if cube.shape[-1]:
        of_cubes, rows = _cubes(cube.reshape(*lead, -1, CUBE), position, yaw)
        flat, objects = {**flat, **of_cubes}, [*objects, rows]
    flat["raw"] = raw
    if len(tops):
        buttons, slide = np.split(fixture, [BUTTON * len(tops)], -1)
        of_fixtures, kinds = _fixtures(
            buttons.reshape(*lead, -1, BUTTON), slide.reshape(*lead, -1, SLIDE), tops, position
        )
        flat, objects = {**flat, **of_fixtures}, objects + kinds
    named = {key: column.reshape(*lead, -1) for key, column in flat.items()}
    named["entities"] = _entities(objects, len(lead))
    return {key: column.astype(np.float32) for key, column in named.items()}


def _cubes(cube: np.ndarray, position: np.ndarray, yaw: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns and entities of cubes (..., N, 9), for the effector's position (..., 3) and yaw (..., 2)."""
    cubes = cube[..., :3] / POSITIONS + CENTRE
    turn, cube_turn = _quadruple(yaw)[..., None], _quadruple(cube[..., 7:9])
    turns = np.concatenate([_parts(cube_turn), _up(cube[..., 3:7])], -1)
    relative = np.concatenate([_offsets(position, cubes), _parts(turn * cube_turn.conj())], -1)
    return {"cubes": cubes, "cube_turns": turns, "relative": relative}, np.concatenate([cubes, turns], -1)


def _fixtures(
    buttons: np.ndarray, slides: np.ndarray, tops: np.ndarray, position: np.ndarray
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Columns and entities, by kind, of buttons (..., B, 4) and of drawer and window (..., 2, 2), or none (..., 0, 2)."""
    state, depth, velocity = buttons[..., 1], buttons[..., 2] / DEPTH, buttons[..., 3]  # the first is 1 - state
    tops = np.broadcast_to(tops, (*state.shape, 3))
    flat = {"buttons": state}
    kinds = [np.concatenate([tops, state[..., None], depth[..., None], velocity[..., None]], -1)]
    if slides.shape[-2]:
        drawer, window = slides[..., 0, :1] / DRAWER, slides[..., 1, :1] / WINDOW
        handles = np.stack([DRAWER_HANDLE - drawer * [0, 1, 0], WINDOW_HANDLE + window * [1, 0, 0]], -2)
        states = np.stack([np.concatenate([drawer, window], -1), slides[..., 1]], -1)
        slide = np.concatenate([handles, states], -1)
        flat, kinds = {**flat, "drawer": drawer, "window": window}, [*kinds, slide[..., :1, :], slide[..., 1:, :]]
        tops = np.concatenate([tops, handles], -2)
    flat["fixtures"] = np.concatenate([depth, velocity, slides[..., 1]], -1)
    flat["fixtures_relative"] = _offsets(position, tops)
    return flat, kinds


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
