"""The interface of diagnostics."""

from __future__ import annotations

from abc import ABC, abstractmethod

from hiwm.levels.level import Level
from hiwm.levels.output import LevelOutput
from hiwm.training.diagnostics.episodes import EncodedEpisodes


class Diagnostic(ABC):
    """One number about a level on held-out data.

    The shipped ones are in this folder. Add one of your own with two overrides of the configuration:
    `+diagnostics.<name>._target_=my_diagnostics.Spread 'allow=[my_diagnostics]'`.

    Attributes:
        name: key of the number in MLflow (`validation/<name>`), metrics.json and CSV files. An added diagnostic takes its
            key in the section `diagnostics`.
        label: name shown in figures and tables; `name` if it is empty.
        format: format of the number in tables and log lines.
        description: what the number means, one sentence for the report.
    """

    name: str = ""
    label: str = ""
    format: str = "{:.3f}"
    description: str = ""

    @abstractmethod
    def __call__(self, level: Level, output: LevelOutput, episodes: EncodedEpisodes) -> float:
        """Compute the number; called without gradients and with the level in eval mode.

        Args:
            level: level to measure.
            output: held-out windows that the level encoded and predicted, from every part of the episodes.
            episodes: evenly spaced time steps of whole held-out episodes, encoded, and the number of the level.
        """

    def alarm(self, value: float) -> str | None:
        """A message for an unhealthy value; None for a healthy one. Alarms are printed and shown in the report."""
        return None
