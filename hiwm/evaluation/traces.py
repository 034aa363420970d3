"""Recorded episodes on disk, for the report: states, subgoals of every level, and explanations of the plans."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from hiwm.evaluation.outcomes import Episodes, Trace


def save_traces(path: Path, outcomes: Mapping[str, Episodes]) -> None:
    """Write one npz file with the keys `<agent>/<task>/<quantity>`."""
    arrays: dict[str, np.ndarray] = {}
    for agent, outcome in outcomes.items():
        for trace in outcome.traces:
            key = f"{agent}/{trace.task}"
            arrays[f"{key}/success"] = np.array(trace.success)
            arrays[f"{key}/states"] = trace.states
            arrays[f"{key}/goal"] = trace.goal
            arrays[f"{key}/why"] = np.array(trace.why, str)
            for k, subgoals in enumerate(trace.subgoals):
                arrays[f"{key}/subgoals{k}"] = subgoals
    np.savez_compressed(path, allow_pickle=False, **arrays)


def load_traces(path: Path) -> dict[str, list[Trace]]:
    """Agent -> traces that `save_traces` wrote.

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
        for key in [name.removesuffix("/success") for name in file if name.endswith("/success")]:
            agent, task = key.rsplit("/", 1)
            num_levels = sum(name.startswith(f"{key}/subgoals") for name in file)
            trace = Trace(
                int(task),
                bool(file[f"{key}/success"]),
                file[f"{key}/states"],
                file[f"{key}/goal"],
                [file[f"{key}/subgoals{k}"] for k in range(num_levels)],
                file[f"{key}/why"].tolist() if f"{key}/why" in file else [],  # older files hold no explanations
            )
            traces.setdefault(agent, []).append(trace)
    return traces
