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
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.progress: Progress | None = None
        self.note = ""

    def __enter__(self) -> Bar:
        self.last_line = time.monotonic() - SECONDS_BETWEEN_LINES + SECONDS_TO_FIRST_LINE
        self.first: tuple[int, float] | None = None  # units done and time at the first update
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
        self.note = note or self.note
        if self.first is None:  # the time before is that of starting up, which says nothing about the pace
            self.first, self.last_done, self.last_pace = (done, now), done, now
        rate = (done - self.first[0]) / max(1e-9, now - self.first[1])
        pace = f"{rate:,.{int(rate < 10)}f}" if rate else ""
        if self.progress is not None:
            text = f"{pace} {self.unit}/s  {self.note}" if pace else self.note
            self.progress.update(self.task, completed=done, note=text)
        elif now - self.last_line > SECONDS_BETWEEN_LINES or (done == self.total and note):
            recent = (done - self.last_done) / max(1e-9, now - self.last_pace)  # the pace of the remaining units
            left = f", {(self.total - done) / recent:,.0f} s left" if recent and done < self.total else ""
            said = f"{self.label}: {done:,}/{self.total:,} {self.unit}{f', {pace}/s' if pace else ''}{left} {note}"
            say(said.rstrip())
            self.last_line = self.last_pace = now
            self.last_done = done

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.progress is not None:
            self.progress.stop()
