"""Records of tensors whose rows are the episodes of a batch."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def select_rows(record: T, rows: Tensor) -> T:
    """A dataclass of tensors (B, ...) for some rows; records within it select theirs, anything else stays."""

    def selected(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[rows]
        return value.select(rows) if is_dataclass(type(value)) else value

    held: Any = record  # there is no type of all dataclasses
    return replace(held, **{field.name: selected(getattr(held, field.name)) for field in fields(held)})
