"""hiwm without YAML: train a hierarchy on arrays or on a dataset, in a notebook or a script."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from hiwm import experiment
from hiwm.agent import HIERARCHY, Agent, load_agent
from hiwm.config import Config, load_config
from hiwm.data.arrays import from_arrays
from hiwm.data.columns import DatasetError
from hiwm.data.store import Trajectories, open_dataset
from hiwm.training.distributed import start_processes

ACTION = "action"
VECTORS, IMAGES = 2, 4  # axes of a column, the one of rows included
SHIPPED_LEVELS, CONFIGURED_LEVELS = 2, 3  # of experiment=custom; those that a configuration has keys of

Arrays = Mapping[str, Any] | Iterable[Mapping[str, Any]]


def train(
    data: str | Path | Trajectories | Arrays,
    strides: Sequence[int] = (1, 10),
    *,
    name: str = "custom",
    lengths: Sequence[int] | None = None,
    inputs: Sequence[str] | None = None,
    seed: int = 0,
    root: str | Path = "runs",
    overrides: Sequence[str] = (),
) -> Agent:
    """Train a hierarchy as `hiwm train experiment=custom` does, and load it. What was trained before is reused.

    Args:
        data: a dataset or its path; or arrays: column name -> (episodes, steps, ...), or one such mapping for each episode,
            column name -> (steps, ...). One column is `action`. Arrays are kept in `<root>/datasets/`.
        strides: steps of the level below in one step of each level, bottom first; one level per entry.
        name: of the experiment; results lie in `<root>/<name>/`.
        lengths: steps of each episode, for one mapping of flat columns, (N, ...).
        inputs: columns that level 0 encodes; None: the only image column, or else all columns of vectors. With images, level 0
            is `level=pixels`, otherwise `level=state`.
        seed: of training and planning.
        root: folder of all results.
        overrides: more of the configuration, as on the command line, e.g. ["training.steps=500"].

    Raises:
        DatasetError: the data cannot be used; the message names the column.
        ConfigError: a setting is wrong; the message names the key.
    """
    dataset = open_dataset(_path_of(data, Path(root), lengths))
    config = _config(
        dataset, strides, inputs, [f"name={_quoted(name)}", f"seed={seed}", f"root={_quoted(root)}", *overrides]
    )
    experiment.train(config)
    device = str(start_processes(config.device).device)
    return load_agent(config.folder / HIERARCHY, device, config.allow, seed=config.seed)


def _path_of(data: Any, root: Path, lengths: Sequence[int] | None) -> Path:
    """Where the data lie; arrays are written to `<root>/datasets/`, under the fingerprint of their content."""
    if isinstance(data, Trajectories):
        if not np.array_equal(data.ep_len, open_dataset(data.path).ep_len):
            raise DatasetError(
                f"data are a part of {data.path}; expected a whole dataset. Write the part with hiwm.data.arrays.from_arrays"
            )
        return Path(data.path)
    if isinstance(data, (str, Path)):
        return Path(data)
    folder = root / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    new = from_arrays(folder / f"arrays-{uuid4().hex}.h5", data, {"source": "arrays"}, lengths)
    return new.rename(folder / f"arrays-{open_dataset(new).fingerprint}.h5")


def _config(dataset: Trajectories, strides: Sequence[int], inputs: Sequence[str] | None, more: Sequence[str]) -> Config:
    """The configuration of a hierarchy with these strides on a dataset."""
    if not strides:
        raise ValueError("strides is empty; expected one entry per level, e.g. [1, 10]")
    axes = {name: column.ndim for name, column in dataset.columns.items() if name != ACTION}
    chosen = list(inputs) if inputs is not None else _default_inputs(axes)
    if unknown := sorted(set(chosen) - set(axes)):
        raise DatasetError(f"inputs has {unknown[0]!r}; expected columns of the dataset: {', '.join(sorted(axes))}")
    state = [name for name in sorted(axes) if axes[name] <= VECTORS] or chosen
    level0 = "pixels" if any(axes[name] > VECTORS for name in chosen) else "state"
    overrides = ["experiment=custom", f"dataset.path={_quoted(dataset.path)}", f"level@levels.level0={level0}"]
    for key, columns in (("inputs", chosen), ("state", state)):
        overrides.append(f"{key}=[{','.join(map(_quoted, columns))}]")
    for k, stride in enumerate(strides):
        if k >= SHIPPED_LEVELS:
            overrides.append(f"{'+' * (k >= CONFIGURED_LEVELS)}level@levels.level{k}=metric")
        if k >= CONFIGURED_LEVELS:
            overrides.append(f"+planner.level{k}=${{planner.level{SHIPPED_LEVELS}}}")
        overrides.append(f"levels.level{k}.stride={stride}")
    overrides += [f"~levels.level{k}" for k in range(len(strides), SHIPPED_LEVELS)]
    if len(strides) == 1:  # no metric level
        overrides += ["planner.graph=follow", "planner.shrinking_horizon=false"]
    if len(strides) == 1 and level0 == "pixels":  # which has no inverse model
        overrides.append("planner.level0.proposal={center: gaussian, std: 1, candidates: []}")
    return load_config([*overrides, *more])


def _default_inputs(axes: Mapping[str, int]) -> list[str]:
    """The only column of images, or else all columns of vectors."""
    images = [name for name in axes if axes[name] == IMAGES]
    if len(images) > 1:
        raise DatasetError(
            f"the data have the image columns {', '.join(images)}; expected `inputs`, the ones that level 0 sees"
        )
    vectors = sorted(name for name in axes if axes[name] <= VECTORS)
    if not images and not vectors:
        raise DatasetError(f"the data have the columns {sorted(axes)}; expected images or vectors besides {ACTION!r}")
    return images or vectors


def _quoted(text: Any) -> str:
    """A value for Hydra that may hold any character."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", str(text))  # Hydra unescapes backslashes only before a quote
    return f"'{escaped}'"
