"""Objects from configuration: `_target_` names the class, the other keys are its keyword arguments."""

from __future__ import annotations

import importlib
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
            f"_target_ {target!r} is not trusted; allowed: {', '.join(TRUSTED)}"
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
    """Call the config's `_target_` with its other keys and the `runtime` arguments (sizes that depend on data)."""
    arguments = dict(config)
    if "_target_" not in arguments:
        raise ValueError(f"no _target_ in {arguments}; it names the class to build")
    target = arguments.pop("_target_")
    try:
        return locate(target, allow)(**arguments, **runtime)
    except TypeError as error:
        raise ValueError(f"{target}: {error}; its config keys are {sorted(arguments)}") from error
