"""Official OGBench `.npz` datasets: flat observations and actions; `terminals` is 1 at the last row of each episode."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from hiwm.data.trajectories import DatasetError, Trajectories


def read_npz(path: Path) -> Trajectories:
    """Read a file; `observations` becomes the column `state` (images: `pixels`), `actions` becomes `action`.

    If there is a `<name>-val.npz` next to `<name>.npz`, its episodes are appended. Held-out episodes are the last ones, so the
    validation split is made of them: a part of them, or all and some more, as `dataset.validation` says.

    Raises:
        DatasetError: the file is not an OGBench dataset.
    """
    files = [path, path.with_name(f"{path.stem}-val.npz")]
    parts = [_read(file) for file in files if file.exists()]
    for name in ("observations", "actions"):
        if len({(part[name].shape[1:], part[name].dtype) for part in parts}) > 1:
            raise DatasetError(f"{files[1]}: {name} has another shape or type than in {path}; expected the same")
    observations = np.concatenate([part["observations"] for part in parts])
    for part in parts:
        part["terminals"][-1] = 1  # a file may end within an episode
    ends = np.flatnonzero(np.concatenate([part["terminals"] for part in parts])) + 1
    ep_offset = np.concatenate([[0], ends[:-1]])
    name = "pixels" if observations.dtype == np.uint8 else "state"
    if name == "state":
        observations = observations.astype(np.float32, copy=False)
    actions = np.concatenate([part["actions"] for part in parts])
    columns = {
        name: observations,
        "action": actions if actions.dtype.kind in "iu" else actions.astype(np.float32, copy=False),
    }
    return Trajectories(path, columns, ends - ep_offset, ep_offset, {"source": path.name})


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            arrays = {name: file[name] for name in ("observations", "actions", "terminals")}
    except (EOFError, KeyError, OSError, ValueError, BadZipFile) as error:
        raise DatasetError(f"{path} is not an OGBench dataset ({error})") from error
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) > 1 or any(array.dtype.kind not in "iufb" for array in arrays.values()):
        kinds = ", ".join(f"{name} is {array.dtype} {array.shape}" for name, array in arrays.items())
        raise DatasetError(f"{path}: {kinds}; expected numbers, one row per step in each")
    if arrays["terminals"].ndim != 1:
        raise DatasetError(f"{path}: terminals has the shape {arrays['terminals'].shape}; expected one number per step")
    if not arrays["terminals"].any():
        raise DatasetError(f"{path}: `terminals` marks no end of an episode; expected a 1 at the last row of each")
    return arrays
