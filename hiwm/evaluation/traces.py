"""Recorded episodes on disk, for the report: states, plans of every level, and their explanations."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from hiwm.evaluation.outcomes import Episodes, LevelTrace, Trace

SUCCESS, NAMES = "success", "names"
EPISODE = re.compile(r"(.*/\d+-\d+)/((?:level\d+/)?(?:plans/)?\w+)", re.DOTALL)  # not of files of older versions
NUMBERS = ("target_level", "period", "step_length", "latents")

ARRAYS = ("states", "goal", "actions", "seen", "frame_steps", "frames")
WALLS = "walls"  # not in files of older versions
PLANS = "plans/"  # prefix of the quantities of plans


def save_traces(path: Path, outcomes: Mapping[str, Episodes]) -> None:
    """Write one npz file with the keys `<agent>/<task>-<episode>/<quantity>`, and `.../level<k>/<quantity>` of a level."""
    arrays: dict[str, Any] = {}
    for agent, outcome in outcomes.items():
        for trace in outcome.traces:
            key = f"{agent}/{trace.task}-{trace.episode}"
            arrays[f"{key}/{SUCCESS}"] = np.array(trace.success)
            arrays |= {f"{key}/{name}": getattr(trace, name) for name in (*ARRAYS, WALLS)}
            for k, level in enumerate(trace.levels):
                arrays |= {f"{key}/level{k}/{name}": value for name, value in _level_arrays(level).items()}
    arrays[NAMES] = np.array(sorted(arrays), str)
    np.savez_compressed(path, **arrays)


def _level_arrays(level: LevelTrace) -> dict[str, np.ndarray]:
    plans = {PLANS + name: value for name, value in level.plans.items()}
    texts = {"parts": np.array(level.parts, str), "why": np.array(level.why, str)}
    return {**plans, **texts, **{name: np.array(getattr(level, name)) for name in NUMBERS}}


def load_traces(path: Path) -> dict[str, list[Trace]]:
    """Agent -> traces that `save_traces` wrote; none of a file of an older version.

    Raises:
        ValueError: the file is missing or damaged; the message names it.
    """
    try:
        return _load_traces(path)
    except (
        OSError,
        ValueError,
        LookupError,
        EOFError,
        MemoryError,
        BadZipFile,
        zlib.error,
        NotImplementedError,
    ) as error:
        fault = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is damaged ({fault}); remove it and the results next to it, and evaluate again"
        ) from error


def _load_traces(path: Path) -> dict[str, list[Trace]]:
    traces: dict[str, list[Trace]] = {}
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:  # closed even if numpy refuses it
        for key, quantities in _episodes_in(file).items():
            agent, number = key.rsplit("/", 1)
            task, episode = map(int, number.split("-"))
            found = {name: file[f"{key}/{name}"] for name in quantities}
            levels = [_level(found, f"level{k}/") for k in range(sum(name.endswith("/why") for name in found))]
            arrays = {name: found[name] for name in ARRAYS} | {name: found[name] for name in (WALLS,) if name in found}
            traces.setdefault(agent, []).append(Trace(task, episode, bool(found[SUCCESS]), levels=levels, **arrays))
    return traces


def _episodes_in(file: Any) -> dict[str, list[str]]:
    """`<agent>/<task>-<episode>` -> the names of its arrays; none of a file of an older version."""
    names: dict[str, list[str]] = {}
    for name in file:
        episode = EPISODE.fullmatch(name)
        if episode is not None:
            names.setdefault(episode[1], []).append(episode[2])
    # a zip file has checksums of what it holds, but not of the names
    if (names or NAMES in file) and {NAMES, *file[NAMES].tolist()} != set(file):
        raise ValueError("its arrays have other names than when it was written")
    return names


def _level(found: Mapping[str, np.ndarray], prefix: str) -> LevelTrace:
    own = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    plans = {name.removeprefix(PLANS): value for name, value in own.items() if name.startswith(PLANS)}
    return LevelTrace(
        int(own["target_level"]), int(own["period"]), float(own["step_length"]), own["latents"],
        own["parts"].tolist(), plans, own["why"].tolist(),
    )  # fmt: skip
