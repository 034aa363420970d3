"""Checks of constructor arguments. An error names the argument, its value and what is expected."""

from __future__ import annotations


class ArgumentError(ValueError):
    """An argument of a constructor is wrong. The message begins with its name, so that `build` can add the config key."""


def at_least(minimum: float, **arguments: float) -> None:
    """Check that every argument is at least `minimum`."""
    for name, value in arguments.items():
        if not value >= minimum:
            raise ArgumentError(f"{name} is {value}; expected at least {minimum}")


def within(interval: str, **arguments: float) -> None:
    """Check that every argument lies in the interval, e.g. "(0, 1]" or "[0, inf)"."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name, value in arguments.items():
        if not (low < value < high or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")):
            raise ArgumentError(f"{name} is {value}; expected a number in {interval}")
