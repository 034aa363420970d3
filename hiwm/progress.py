"""Where the training of a stack is reported: a bar, a history file and an MLflow run for each level."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from hiwm.console import Bar, say, shout
from hiwm.tracking import Run, Tracker
from hiwm.training.loop import Progress
from hiwm.training.stages import TrainedLevel

HISTORY = "history.jsonl"


class TrainingProgress:
    """Reports levels one after another; use as a context, so that an interrupted level's run does not stay open.

    Args:
        tracker: where runs are recorded.
        parameters: what to record of each level.
    """

    def __init__(self, tracker: Tracker, parameters: list[dict[str, Any]], dataset: str) -> None:
        self.tracker = tracker
        self.parameters = parameters
        self.below = dataset  # fingerprint of the level below the one that trains; of the data, below level 0
        self.bar: Bar | None = None
        self.run: Run | None = None
        self.home: Path | None = None  # of what the bar and the run are about

    def __enter__(self) -> TrainingProgress:
        return self

    def step(self, level: int, progress: Progress) -> None:
        """One optimiser step, or one validation, of a level."""
        if progress.home != self.home:  # from pretraining to training
            self._close("FINISHED")
        if self.bar is None or self.run is None:
            name = f"level {level}" + (f" {progress.job}" if progress.job != "training" else "")
            self.home = progress.home
            self.bar = Bar(name, progress.steps, "steps", start=progress.step)
            self.bar.__enter__()
            lineage = {"hiwm.level": str(level), "hiwm.fingerprint": progress.home.name, "hiwm.below": self.below}
            self.run = self.tracker.child(name, self.parameters[level], lineage)
        if progress.metrics:
            self.run.metrics(progress.metrics, progress.step)
            with open(progress.home / HISTORY, "a") as file:
                file.write(json.dumps({"step": progress.step, **progress.metrics}) + "\n")
        note = ""
        if "validation/copy_last" in progress.metrics:
            health = {name.removeprefix("validation/"): value for name, value in progress.metrics.items()}
            note = "prediction {copy_last:.3f} of copy-last, rank {effective_rank:.1f}, readout R2 {readout_r2:.3f}"
            note = note.format(**health)
        self.bar.update(progress.step, note)
        for alarm in progress.alarms:
            shout(f"level {level} may be collapsing: {alarm}")

    def level(self, level: int, trained: TrainedLevel) -> None:
        """A level is done, or was there already."""
        if trained.reused:
            say(f"level {level}: {trained.folder}, trained already, reused")
        if self.run is not None:
            self.run.artifact(trained.folder / "metrics.json")
            self.run.artifact(trained.folder / "level.safetensors")
        self._close("FINISHED")
        self.below = trained.folder.name

    def _close(self, status: str) -> None:
        if self.run is not None:
            self.run.finish(status)
        if self.bar is not None:
            self.bar.__exit__(None, None, None)
        self.bar = self.run = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close("KILLED")
