"""Records of tensors whose rows are the episodes of a batch."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

Record = TypeVar("Record", bound="BatchRecord")


class BatchRecord:
    """Base of dataclasses whose tensors are (B, ...), one row per episode."""

    def select(self: Record, rows: Tensor) -> Record:
        """The same for some of the episodes. Records within the record select theirs; other values stay."""

        def selected(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[rows]
            return value.select(rows) if isinstance(value, BatchRecord) else value

        assert is_dataclass(self), "records are dataclasses"
        return replace(self, **{field.name: selected(getattr(self, field.name)) for field in fields(self)})
