"""Typed sections of the configuration: pydantic checks types, ranges and unknown keys; errors name the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError

Self = TypeVar("Self", bound="Settings")


class SettingsError(ValueError):
    """A value that a section refuses.

    Args:
        path: keys that lead to the value, within the section.
        text: the message, with `{}` in place of the key.
        section: name of the section in the configuration.
    """

    def __init__(self, path: tuple[str, ...], text: str, section: str) -> None:
        self.path, self.text = path, text
        super().__init__(text.replace("{}", ".".join([*([section] if section else []), *path]), 1))


class Settings(BaseModel):
    """A section of the configuration, immutable and without unknown keys.

    Attributes:
        section: its name in the configuration, e.g. "training"; error messages begin with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    section: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explained(error, type(self)) from error

    def changed(self: Self, changes: Mapping[str, Any]) -> Self:
        """A copy with some values replaced, checked like a new one; mappings within are merged."""
        return type(self)(**merged(self.as_dict(), changes))

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for YAML, JSON and MLflow."""
        return self.model_dump()


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `changes` on top, mapping by mapping.

    A mapping with another `_target_` replaces the old one, whose arguments belong to another class.
    """
    result = dict(values)
    for key, change in changes.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(change, Mapping):
            same = change.get("_target_", old.get("_target_")) == old.get("_target_")
            change = merged(old, change) if same else change
        result[key] = change
    return result


def _explained(error: ValidationError, kind: type[Settings]) -> ValueError:
    """The first fault in one line: `<key> is <value>; expected <what>`."""
    faults = error.errors(include_url=False)
    fault = faults[0]
    if fault["type"] == "missing":  # often because its name is misspelt, which is then an unknown key
        fault = next((each for each in faults if each["type"] == "extra_forbidden"), fault)
    names: list[str] = []
    for part in fault["loc"]:
        if str(part).startswith(("literal[", "mapping[", "dict[")):  # how pydantic names the options of a union
            continue
        if isinstance(part, int) and names:
            names[-1] += f"[{part}]"
        else:
            names.append(str(part))
    path = tuple(names)
    if fault["type"] == "value_error":
        # raised by a section within, or by a rule that names the key itself
        inner: Any = fault.get("ctx", {}).get("error")
        return SettingsError(path + inner.path, inner.text, kind.section) if isinstance(inner, SettingsError) else inner
    if fault["type"] == "extra_forbidden":
        known = _keys(kind, fault["loc"][:-1])
        near = get_close_matches(str(fault["loc"][-1]), known, 1)
        text = f"unknown key {{}}; expected one of {', '.join(known)}" + (f". Did you mean {near[0]}?" if near else "")
    elif fault["type"] == "missing":
        text = "{} is missing; expected a value"
    else:
        text = f"{{}} is {fault['input']!r}; expected {_expected(fault)}"
    return SettingsError(path, text, kind.section)


def is_open(kind: Any, path: Sequence[str]) -> bool:
    """Whether a section of this kind may have any key at a path, because it lies in a mapping without fixed keys."""
    for name in path[:-1]:
        annotation = _annotation(kind, name)
        inner = _section(annotation)
        if inner is None:
            return any(get_origin(part) in (dict, Mapping) for part in (annotation, *get_args(annotation)))
        kind = inner
    return False


def _keys(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields at a location within a section."""
    for part in location:
        kind = _section(_annotation(kind, part))
        if kind is None:
            return []
    return sorted(kind.model_fields)


def _annotation(kind: type[Settings], name: int | str) -> Any:
    """The type of a key of a section; None if there is no such key."""
    if name in kind.model_fields:
        return kind.model_fields[str(name)].annotation
    more = get_type_hints(kind)["__pydantic_extra__"] if kind.model_config.get("extra") == "allow" else None
    return get_args(more)[1] if more else None


def _section(annotation: Any) -> Any:
    """The section among the types that a key may have; None if there is none."""
    return next((part for part in (annotation, *get_args(annotation)) if _is_settings(part)), None)


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


_KINDS = {
    "int": "a whole number", "float": "a number", "string": "text", "bool": "true or false", "list": "a list",
    "dict": "a mapping", "model": "a mapping", "mapping": "a mapping", "sequence": "a list", "is": "a list",
}  # fmt: skip


def _expected(fault: Any) -> str:
    """What pydantic wanted, in the words of a configuration."""
    bounds = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}
    for name, words in bounds.items():
        if name in fault.get("ctx", {}):
            return words.format(fault["ctx"][name])
    if fault["type"] == "literal_error":
        return fault["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
    word = _KINDS.get(fault["type"].split("_")[0])
    return word or fault["msg"].removeprefix("Input should be ")
