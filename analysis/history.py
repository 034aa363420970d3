"""The curves of a trained level, `history.jsonl` in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hiwm.disk import read_json_lines
from hiwm.progress import HISTORY


def load_history(home: Path) -> list[dict[str, Any]]:
    """Records with `step` and metrics, in the order of training; lines that a kill or a crash has cut off are left out.

    Args:
        home: folder of the level.
    """
    # a training that was killed and resumed has written some steps twice; added diagnostics may come later
    merged: dict[tuple[int, bool], dict[str, Any]] = {}
    for record in filter(_is_whole, read_json_lines(home / HISTORY)):
        merged.setdefault((record["step"], "loss/total" in record), {}).update(record)
    return list(merged.values())


def _is_whole(record: Any) -> bool:
    numbers = isinstance(record, dict) and all(isinstance(value, (int, float)) for value in record.values())
    return numbers and isinstance(record.get("step"), int)
