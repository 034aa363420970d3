"""All diagnostics of a training: the shipped ones and those that the configuration adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from hiwm.build import build_as
from hiwm.levels.level import Level
from hiwm.levels.output import LevelOutput
from hiwm.training.diagnostics.copy_last import CopyLast
from hiwm.training.diagnostics.diagnostic import Diagnostic
from hiwm.training.diagnostics.episodes import EncodedEpisodes
from hiwm.training.diagnostics.rank import EffectiveRank, RankShare
from hiwm.training.diagnostics.state_probe import StateProbe
from hiwm.training.diagnostics.variance import LatentStd, WithinEpisode

LOSS = "loss_"  # prefix of the held-out losses, the other numbers of a validation
TIMESCALE = "timescale"  # stored with the diagnostics of a level


class Diagnostics:
    """Diagnostics by name, shipped ones first.

    Args:
        added: further diagnostics, by name.

    Attributes:
        added: names of the further diagnostics.
    """

    def __init__(self, added: Mapping[str, Diagnostic] | None = None) -> None:
        shipped = (EffectiveRank(), RankShare(), LatentStd(), WithinEpisode(), CopyLast(), StateProbe())
        self.by_name: dict[str, Diagnostic] = {diagnostic.name: diagnostic for diagnostic in shipped}
        for name, diagnostic in (added or {}).items():
            if name in self.by_name or name == TIMESCALE or name.startswith(LOSS):
                raise ValueError(
                    f"diagnostics.{name} is taken; expected another name. hiwm stores a number of its own there"
                )
            if not isinstance(diagnostic, Diagnostic):
                raise ValueError(
                    f"diagnostics.{name}._target_ is {type(diagnostic).__qualname__}; expected a subclass of "
                    "hiwm.training.diagnostics.diagnostic.Diagnostic"
                )
            diagnostic.name, diagnostic.label = name, diagnostic.label or name
            self.by_name[name] = diagnostic
        self.added = tuple(added or {})

    @classmethod
    def from_config(cls, section: Mapping[str, Any], allow: Sequence[str] = ()) -> Diagnostics:
        """The shipped diagnostics and those of the section `diagnostics` (name -> `_target_` and arguments).

        Raises:
            ValueError: an entry cannot be built, or its name is taken; the message names the key.
        """
        added = {}
        for name, entry in section.items():
            if not isinstance(entry, Mapping):
                raise ValueError(f"diagnostics.{name} is {entry!r}; expected a mapping with a _target_")
            added[name] = build_as(Diagnostic, f"diagnostics.{name}", entry, allow)
        return cls(added)

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self.by_name.values())

    @torch.no_grad()
    def measure(self, level: Level, output: LevelOutput, episodes: EncodedEpisodes) -> dict[str, float]:
        """Name -> number, for a level in eval mode.

        A diagnostic that draws from torch's global generator does not disturb the training.
        """
        device = episodes.latent.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return {
                name: _number(name, diagnostic(level, output, episodes)) for name, diagnostic in self.by_name.items()
            }

    def missing(self, metrics: Mapping[str, float]) -> list[str]:
        """Names of the diagnostics that the metrics of a level lack, because they were added after its training."""
        return [name for name in self.by_name if name not in metrics]

    def summary(self, metrics: Mapping[str, float]) -> str:
        """The diagnostics among a validation's numbers, in one line; "" if there are none."""
        return ", ".join(f"{d.label} {d.format.format(metrics[d.name])}" for d in self if d.name in metrics)

    def alarms(self, metrics: Mapping[str, float]) -> list[str]:
        """The messages of all alarms; empty for a healthy level."""
        found = [diagnostic.alarm(metrics[diagnostic.name]) for diagnostic in self if diagnostic.name in metrics]
        return [alarm for alarm in found if alarm is not None]


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"diagnostics.{name} returned a {type(value).__name__}; expected one number") from error


SHIPPED = Diagnostics()
