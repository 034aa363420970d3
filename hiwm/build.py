"""Objects from configuration: `_target_` names the class, the other keys are its keyword arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

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


def build(config: Mapping[str, Any], allow: Sequence[str] = (), **runtime: Any) -> Any:
    """Call the config's `_target_` with its other keys, and with those of the `runtime` arguments that it names.

    Runtime arguments are sizes that depend on the data. An argument that has a `_target_` itself is built first, with the same `runtime` arguments.
    """
    if "_target_" not in config:
        raise ValueError(f"no _target_ in {dict(config)}; it names the class to build")

    def resolve(value: Any) -> Any:
        if isinstance(value, Mapping) and "_target_" in value:
            return build(value, allow, **runtime)
        return [resolve(item) for item in value] if isinstance(value, (list, tuple)) else value

    target = config["_target_"]
    called = locate(target, allow)
    arguments = {key: resolve(value) for key, value in config.items() if key != "_target_"}
    takes = inspect.signature(called).parameters
    sizes = {name: value for name, value in runtime.items() if name in takes}
    try:
        return called(**arguments, **sizes)
    except TypeError as error:
        raise ValueError(f"{target}: {error}; its config keys are {sorted(arguments)}") from error
