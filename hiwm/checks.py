"""Checks of configuration values; an error names the key, the value and what is expected."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin


def at_least(where: str, minimum: float, **values: float) -> None:
    """Check that every value is at least `minimum`; `where` is the configuration section of the keys."""
    for key, value in values.items():
        if not value >= minimum:
            raise ValueError(f"{where}{key} is {value}; expected at least {minimum}")


def within(where: str, interval: str, **values: float) -> None:
    """Check that every value lies in the interval, e.g. "(0, 1]" or "[0, inf)"."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    for key, value in values.items():
        if not (low < value < high or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")):
            raise ValueError(f"{where}{key} is {value}; expected a number in {interval}")


def matches(value: Any, hint: Any) -> bool:
    """Whether a plain value (number, text, list, mapping) and its elements have a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(matches(value, option) for option in arguments)
    if origin in (list, Sequence):
        return isinstance(value, list) and all(matches(item, arguments[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(matches(item, arguments[1]) for item in value.values())
    if hint in (list, Sequence):
        return isinstance(value, list)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def spell(hint: Any) -> str:
    """A type in words, e.g. "list of int"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (list, Sequence):
        return f"list of {spell(arguments[0])}"
    if origin in (dict, Mapping):
        return "a mapping"
    if origin in (Union, types.UnionType):
        return " or ".join(spell(option) for option in arguments)
    return {type(None): "null", float: "a number", int: "a whole number", str: "text"}.get(hint, str(hint))
