"""Checks of configuration values; an error names the key, the value and what is expected."""

from __future__ import annotations

import re


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


def file_name(key: str, value: str) -> str:
    """Check that a name can be that of a file or folder in its own folder, and is shown as it is; returns it."""
    if not re.fullmatch(r"(?=.*\w)[\w.+-]([\w .,+=@-]*[\w.+-])?", value) or len(value.encode()) > 150:
        raise ValueError(
            f"{key} is {value!r:.200}; expected the name of a file without its extension, of letters, digits and . , + - = @ _"
        )
    return value
