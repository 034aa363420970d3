"""Finished batches of episodes on disk, so that an interrupted evaluation continues where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

from hiwm.evaluation.outcomes import Episodes
from hiwm.evaluation.traces import load_traces, save_traces


class Batches:
    """The finished batches of `run_episodes` in a folder.

    Args:
        folder: holds the batches of one agent; `save` creates it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str) -> Episodes | None:
        """The batch saved under this name, or None if there is none."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            return None
        return Episodes(**json.loads(file.read_text()), traces=load_traces(file.with_suffix(".npz")).get(name, []))

    def save(self, name: str, batch: Episodes) -> None:
        """Write two files. The JSON is written last and renamed into place, so a batch that has one is complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{name}.json"
        save_traces(file.with_suffix(".npz"), {name: batch})
        numbers = {key: value for key, value in vars(batch).items() if key != "traces"}
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(numbers))
        temporary.replace(file)
