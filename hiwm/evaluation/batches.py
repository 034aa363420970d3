"""The parts of an evaluation that are done, on disk until all of it is: an interrupted one goes on from there."""

from __future__ import annotations

import json
from pathlib import Path

from hiwm.evaluation.outcomes import Episodes
from hiwm.evaluation.traces import load_traces, save_traces


class Batches:
    """Batches of episodes in a folder; see `run_episodes`.

    Args:
        folder: of one agent; made when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str) -> Episodes | None:
        """What was saved under the name; None for nothing."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            return None
        return Episodes(**json.loads(file.read_text()), traces=load_traces(file.with_suffix(".npz")).get(name, []))

    def save(self, name: str, batch: Episodes) -> None:
        """Two files; the JSON comes last, and whole, so that a batch with one is complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{name}.json"
        save_traces(file.with_suffix(".npz"), {name: batch})
        numbers = {key: value for key, value in vars(batch).items() if key != "traces"}
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(numbers))
        temporary.replace(file)
