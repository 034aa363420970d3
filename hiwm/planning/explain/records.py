"""Records of tensors whose rows are the episodes of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

Record = TypeVar("Record", bound="BatchRecord")


class BatchRecord:
    """Base of dataclasses whose tensors are (B, ...), one row per episode."""

    def select(self: Record, rows: Tensor) -> Record:
        """The same for some of the episodes. Records within the record select theirs; other values stay."""
        return self._changed(lambda tensor: tensor[rows], lambda record: record.select(rows))

    def alone(self: Record, episode: int) -> Record:
        """The same for one episode, on the CPU."""
        return self._changed(
            lambda tensor: tensor[episode : episode + 1].detach().cpu(), lambda record: record.alone(episode)
        )

    def _changed(
        self: Record, tensors: Callable[[Tensor], Tensor], records: Callable[[BatchRecord], BatchRecord]
    ) -> Record:
        def changed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return tensors(value)
            return records(value) if isinstance(value, BatchRecord) else value

        assert is_dataclass(self), "records are dataclasses"
        return replace(self, **{field.name: changed(getattr(self, field.name)) for field in fields(self)})
