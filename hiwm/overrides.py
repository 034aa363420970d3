"""Overrides of the command line that Hydra refuses without naming them, or accepts without an effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from hiwm.build import given_keys, mapping_at

MOST_NAMED = 5


def unreadable(overrides: Sequence[str]) -> str | None:
    """What is wrong with the first override that Hydra cannot read; None if it can read all of them."""
    for override in overrides:
        try:
            (parsed,) = OverridesParser.create().parse_overrides([override])
        except HydraException as error:
            fault = " ".join(f"{error.__cause__ or error}".split("See https")[0].split())
            return (
                f"{override!r:.300} is not an override: {fault}; expected key=value. In a mapping {{key: value}} keys have no quotes, and "
                "text with special characters has some"
            )
        if parsed.package and parsed.value() is None and not parsed.is_delete():
            group = parsed.key_or_group
            remove = f". Write ~{parsed.package} to remove the level" if group == "level" else ""
            return (
                f"{parsed.get_key_element()} is null; expected the name of one of the files in configs/{group}/{remove}"
            )
    return None


def without_effect(overrides: Sequence[str], values: Mapping[str, Any]) -> str | None:
    """What to write instead of an empty mapping where the composed values have entries; None if no override is such a one.

    Hydra merges mappings, so an empty one changes nothing.
    """
    given = set(given_keys(overrides))
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.is_delete() or override.package is not None:
            continue
        for key in _empty(override.key_or_group, override.value()):
            entries = [f"{key}.{name}" for name in mapping_at(values, key.split(".")) or ()]
            left = [each for each in entries if not any(f"{other}.".startswith(f"{each}.") for other in given)]
            if left:
                removing = " ".join(f"~{each}" for each in left[:MOST_NAMED])
                return f"{key} is {{}}, which removes nothing, because Hydra merges mappings; expected {removing}"
    return None


def _empty(key: str, value: Any) -> Iterator[str]:
    """Dotted names of the empty mappings in a value."""
    if isinstance(value, Mapping):
        if not value:
            yield key
        for name, inner in value.items():
            yield from _empty(f"{key}.{name}", inner)
