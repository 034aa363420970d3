"""Objects from configuration: `_target_` names the class, the other keys are its keyword arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser

from hiwm.checks import ArgumentError

TRUSTED = ("hiwm.", "torch.nn.", "torch_geometric.nn.")


def locate(target: str, allow: Sequence[str] = ()) -> Any:
    """The class or function of that full name.

    Args:
        target: e.g. "hiwm.levels.encoders.mlp.MLPEncoder".
        allow: packages or modules trusted besides hiwm, torch.nn and torch_geometric.nn. A saved hierarchy names its
            classes in a file, so a name outside them is refused unless the caller asks for it.

    Raises:
        ValueError: not trusted, or there is no such thing.
    """
    if not target.startswith(TRUSTED) and not any(target.startswith(f"{name}.") for name in allow):
        raise ValueError(
            f"_target_ {target!r} is not trusted; expected {', '.join(TRUSTED)}"
            f" and what `allow` names ({', '.join(allow) or 'nothing'}); to trust it: allow=[{target.split('.')[0]}]"
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"_target_ {target!r} cannot be imported: {error}") from error
    asked_for = any(target.startswith(f"{name}.") for name in allow)
    # a trusted module also holds functions and what it imports itself; a file may name neither
    if not asked_for and not (isinstance(found, type) and found.__module__ == module):
        raise ValueError(f"_target_ {target!r} is not trusted: it is not a class of {module}")
    return found


T = TypeVar("T")


def build_as(kind: type[T], key: str, config: Mapping[str, Any], allow: Sequence[str] = (), **runtime: Any) -> T:
    """`build`, refusing what is not of a kind; every error names the key that asks for it."""
    try:
        found = build(config, allow, **runtime)
    except ArgumentError as error:
        raise ArgumentError(f"{key}.{error}") from error
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(
            f"{key} makes a {type(found).__name__}; expected a subclass of {kind.__module__}.{kind.__name__}"
        )
    return found


def build(config: Mapping[str, Any], allow: Sequence[str] = (), **runtime: Any) -> Any:
    """Call the config's `_target_` with its other keys, and with those of the `runtime` arguments that it names.

    Runtime arguments are sizes that depend on the data. An argument that has a `_target_` itself is built first, with
    the same `runtime` arguments; an `ArgumentError` about it names it too, e.g. "solver.iterations is 0".
    """
    if "_target_" not in config:
        raise ValueError(f"no _target_ in {dict(config)}; it names the class to build")

    def resolve(value: Any) -> Any:
        if isinstance(value, Mapping) and "_target_" in value:
            return build(value, allow, **runtime)
        return [resolve(item) for item in value] if isinstance(value, (list, tuple)) else value

    target = config["_target_"]
    called = locate(target, allow)
    arguments = {}
    for key, value in config.items():
        try:
            arguments[key] = resolve(value)
        except ArgumentError as error:
            raise ArgumentError(f"{key}.{error}") from error
    arguments.pop("_target_")
    takes = inspect.signature(called).parameters
    sizes = {name: value for name, value in runtime.items() if name in takes}
    try:
        return called(**arguments, **sizes)
    except TypeError as error:
        raise ValueError(f"{target}: {error}; its config keys are {sorted(arguments)}") from error


def drop_foreign_arguments(config: Mapping[str, Any], overrides: Sequence[str], allow: Sequence[str]) -> dict[str, Any]:
    """The composed config without arguments that belong to a class which an override has replaced.

    `planner.solver._target_=my.Solver` changes only the name of the class; the arguments of the former one are still
    there. Those that the new class does not take are dropped. An argument that an override gives stays, even if the
    class does not take it, so that `build` refuses it. Nothing is dropped for a class that takes any keyword
    (`**kwargs`) or that `locate` refuses, because `build` will say so.

    Args:
        config: plain containers, composed with the overrides; not changed.
        overrides: in the grammar of Hydra, e.g. ["planner.solver._target_=my.Solver", "+planner.solver.width=3"].
        allow: packages trusted besides hiwm's own; see `locate`.
    """
    given = set(given_keys(overrides))
    result = dict(config)
    for key in sorted(given):
        *path, last = key.split(".")
        found = _at(result, path) if last == "_target_" else None
        takes = None if found is None else _parameters(found.get("_target_"), allow)
        if found is None or takes is None:
            continue
        where = ".".join(path)
        explicit = {name[len(where) + 1 :].split(".")[0] for name in given if name.startswith(f"{where}.")}
        kept = {name: value for name, value in found.items() if name in takes or name in explicit}
        result = _with(result, path, kept)
    return result


def given_keys(overrides: Sequence[str]) -> Iterator[str]:
    """Dotted names of all values that overrides give; a mapping gives those within it."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if not override.is_delete() and override.package is None:  # with a package it chooses a group
            yield from _leaves(override.key_or_group, override.value())


def _leaves(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key


def _at(config: Any, path: Sequence[str]) -> Mapping[str, Any] | None:
    """The mapping at a path; None if there is none."""
    for name in path:
        config = config.get(name) if isinstance(config, Mapping) else None
    return config if isinstance(config, Mapping) else None


def _with(config: Mapping[str, Any], path: Sequence[str], value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with another mapping at a path."""
    return {**config, path[0]: _with(config[path[0]], path[1:], value)} if path else dict(value)


def _parameters(target: Any, allow: Sequence[str]) -> set[str] | None:
    """Names of the arguments that a class takes; None if it takes any, or if they are unknown."""
    try:
        parameters = inspect.signature(locate(target, allow)).parameters
    except (ValueError, TypeError, AttributeError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return {"_target_", *parameters}
