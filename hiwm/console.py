"""Progress for people: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

console = Console(highlight=False, markup=False, emoji=False)
SECONDS_TO_FIRST_LINE, SECONDS_BETWEEN_LINES = 1.0, 10.0


def say(text: str) -> None:
    """Print a line as it is: a name that looks like markup of rich stays a name."""
    console.print(printable(text), soft_wrap=True)


def shout(text: str) -> None:
    """Print a warning in red."""
    console.print(f"!! {printable(text)}", style="bold red", soft_wrap=True)


def printable(text: str) -> str:
    """The text with control characters other than line ends escaped, which could otherwise command the terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", lambda found: repr(found[0])[1:-1], text)


class Bar:
    """Progress of one job, with throughput and time left.

    Args:
        label: name of the job.
        total: number of units.
        unit: name of the units, e.g. "steps".
        start: units done by an earlier run.
    """

    def __init__(self, label: str, total: int, unit: str, start: int = 0) -> None:
        self.label, self.total, self.unit, self.start = label, total, unit, start
        self.progress: Progress | None = None
        self.note = ""

    def __enter__(self) -> Bar:
        self.began = self.last_pace = time.monotonic()
        self.last_line = self.began - SECONDS_BETWEEN_LINES + SECONDS_TO_FIRST_LINE
        self.last_done = self.start
        if console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                       TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False, table_column=Column(overflow="fold")))  # fmt: skip
            self.progress = Progress(*columns, console=console)
            self.task = self.progress.add_task(printable(self.label), total=self.total, note="")
            self.progress.start()
        return self

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` units of the total are done, and a note; "" keeps the last note."""
        now = time.monotonic()
        rate = (done - self.start) / max(1e-9, now - self.began)
        self.note = note or self.note
        if self.progress is not None:
            self.progress.update(
                self.task, completed=done, note=f"{rate:,.{int(rate < 10)}f} {self.unit}/s  {self.note}"
            )
        elif now - self.last_line > SECONDS_BETWEEN_LINES or (done == self.total and note):
            recent = (done - self.last_done) / max(1e-9, now - self.last_pace)  # the pace of the remaining units
            left = f", {(self.total - done) / recent:,.0f} s left" if recent and done < self.total else ""
            say(
                f"{self.label}: {done:,}/{self.total:,} {self.unit}, {rate:,.{int(rate < 10)}f}/s{left} {note}".rstrip()
            )
            self.last_line = self.last_pace = now
            self.last_done = done

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.progress is not None:
            self.progress.stop()
