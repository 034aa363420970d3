"""The results of an evaluation on disk, `<evaluation.name>.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from hiwm.files import read_json
from hiwm.settings import Settings

Interval = tuple[float, float]


class _Rate(Settings):
    """Episodes that reached their goal."""

    model_config = ConfigDict(extra="allow", strict=False)

    success: float = Field(ge=0, le=1)
    interval: Interval
    episodes: int = Field(ge=1)


class _Task(_Rate):
    """The episodes of one task in order."""

    solved: list[int]
    steps: list[int]


class _Agent(_Rate):
    """What was measured of one agent; see `summarize`."""

    per_task: dict[str, _Task]
    steps: dict[str, float] | None
    plan_ms: dict[str, float]
    predictor_calls: float
    other_calls: float


class _Results(Settings):
    model_config = ConfigDict(extra="allow", strict=False)

    identity: str = Field(pattern=r"^[0-9a-f]*$")  # part of file names
    experiment: str
    seed: int
    commit: str
    machine: str
    agents: dict[str, _Agent] = Field(min_length=1)


def read_results(path: Path) -> dict[str, Any]:
    """The results in a file.

    Raises:
        ValueError: the file is damaged, or a value is missing or of another type; the message names the file and the key.
    """
    results = read_json(path)
    try:
        _Results(**results)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}. Remove it, and `hiwm evaluate` writes it again") from error
    return results
