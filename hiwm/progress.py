"""Where the training of a hierarchy is reported: a bar, a history file and an MLflow run for each level."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

from hiwm.console import Bar, say, shout
from hiwm.disk import append_json, cut_json_lines
from hiwm.tracking import Run, Tracker, status_after
from hiwm.training.checkpoint import METRICS
from hiwm.training.diagnostics.runner import Diagnostics
from hiwm.training.loop import MEASURING, Progress
from hiwm.training.stages import TrainedLevel
from hiwm.training.windows import WindowCoverage

HISTORY = "history.jsonl"
VALIDATION = "validation/"
SECONDS_TO_MEASURE, LEAST_SHARE = 20.0, 0.6  # of one core


class TrainingProgress:
    """Reports levels one after another, or all at once; a context, which closes the runs of an interrupted level.

    Args:
        tracker: where runs are recorded.
        parameters: what to record of each level.
        dataset: its fingerprint.
        diagnostics: how to show the numbers of a validation.
        title: of the bar, in place of the level's number.
    """

    def __init__(
        self,
        tracker: Tracker,
        parameters: list[dict[str, Any]],
        dataset: str,
        diagnostics: Diagnostics,
        title: str = "",
    ) -> None:
        self.tracker = tracker
        self.parameters = parameters
        self.diagnostics = diagnostics
        self.title = title
        self.below = dataset  # fingerprint of the level below the next one to train; of the data, below level 0
        self.bar: Bar | None = None
        self.job = "training"
        self.runs: dict[Path, Run] = {}
        self.share = CoreShare()

    def __enter__(self) -> TrainingProgress:
        return self

    def start(self, coverage: WindowCoverage, timescale: float) -> None:
        """Announce the next level."""
        say(
            f"level {coverage.level}: a step is {coverage.period} environment steps, a window {coverage.rows} rows; "
            f"{coverage.episodes:.0%} of the episodes hold one, {coverage.starts:.0%} of the rows begin one; "
            f"the time scale of its input is {timescale:.3g} steps"
        )

    def fit(self, level: int, windows: int) -> None:
        """Announce what may take a minute before the first step."""
        say(
            f"level {level}: its regularizers look at {windows:,} windows of the data, to choose landmarks and the like"
        )

    def step(self, level: int, progress: Progress) -> None:
        """Report one optimiser step, or one validation, of a level."""
        if progress.job != self.job:  # from pretraining or dynamics to training
            self._close("FINISHED")
        self.job = progress.job
        name = f"level {level}" + (f" {progress.job}" if progress.job != "training" else "")
        if self.bar is None and progress.job != MEASURING:
            self._open_bar(self.title or name, progress)
        if progress.home not in self.runs:
            if progress.job != MEASURING:  # steps after the checkpoint are taken, and recorded, once more
                cut_json_lines(progress.home / HISTORY, lambda record: _is_before(record, progress.step))
            home = progress.home.parent if progress.job == "dynamics" else progress.home  # of the level
            lineage = {"hiwm.level": str(level), "hiwm.fingerprint": home.name, "hiwm.below": self.below}
            self.runs[progress.home] = self.tracker.child(name, self.parameters[level], lineage)
            if progress.job == "training":
                self.below = progress.home.name
        if progress.metrics:
            self.runs[progress.home].metrics(progress.metrics, progress.step)
            append_json(progress.home / HISTORY, {"step": progress.step, **progress.metrics})
        values = {key.removeprefix(VALIDATION): x for key, x in progress.metrics.items() if key.startswith(VALIDATION)}
        summary = self.diagnostics.summary(values)
        if warning := self.share.warning():
            shout(warning)
        if self.bar is not None:
            self.bar.update(progress.step, summary)
        elif summary:
            say(f"{name}: {summary}")
        for alarm in self.diagnostics.alarms(values) if progress.step else []:
            shout(f"level {level}: {alarm}")

    def level(self, level: int, trained: TrainedLevel) -> None:
        """A level is done, or was trained before."""
        if trained.reused:
            say(f"level {level}: {trained.folder}, trained already, reused")
        if run := self.runs.pop(trained.folder, None):
            run.artifact(trained.folder / METRICS)
            run.artifact(trained.folder / "level.safetensors")
            run.finish("FINISHED")
        if not self.runs:
            self._close("FINISHED")
        self.below = trained.folder.name

    def _open_bar(self, label: str, progress: Progress) -> None:
        if progress.step:
            say(f"{label}: resumes from its checkpoint at step {progress.step:,}")
        self.bar = Bar(label, progress.steps, "steps")
        self.bar.__enter__()

    def _close(self, status: str) -> None:
        for run in self.runs.values():
            run.finish(status)
        if self.bar is not None:
            self.bar.__exit__(None, None, None)
        self.bar, self.runs = None, {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(status_after(kind))


class CoreShare:
    """Says once if this process waits for a core, or for the disk, most of the time."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.monotonic(), time.process_time()
        self.said = False

    def warning(self) -> str | None:
        """The warning, if it has become due since the last call."""
        wall, cpu = time.monotonic() - self.wall, time.process_time() - self.cpu
        if self.said or wall < SECONDS_TO_MEASURE:
            return None
        self.wall, self.cpu = self.wall + wall, self.cpu + cpu
        if cpu > LEAST_SHARE * wall:
            return None
        self.said = True
        return (
            f"slow: in the last {wall:.0f} s this process had {100 * cpu / wall:.0f} % of one core; other jobs use the machine, or the "
            "disk is slow"
        )


def _is_before(record: Any, step: int) -> bool:
    """Whether a record of the history is of an earlier step; a spoiled one is not."""
    return isinstance(record, dict) and isinstance(record.get("step"), int) and record["step"] < step
