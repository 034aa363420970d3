"""Objects from configuration: `_target_` names the class, the other keys are its keyword arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from hiwm.checks import ArgumentError

# Base classes of hiwm that a file or a config may name subclasses of. Their constructors compute and allocate only; a
# class that opens files, starts processes or evaluates text must not become a subclass of one of them.
PARTS = (
    "hiwm.levels.parts.Encoder",
    "hiwm.levels.parts.ActionEncoder",
    "hiwm.levels.parts.Predictor",
    "hiwm.levels.parts.Regularizer",
    "hiwm.levels.inverse.InverseModel",
    "hiwm.levels.target.EMATarget",
    "hiwm.levels.trainable.Trainable",
    "hiwm.planning.solvers.solver.Solver",
    "hiwm.planning.strategies.strategy.Strategy",
    "hiwm.planning.costs.Cost",
    "hiwm.planning.goals.goal.Goal",
    "hiwm.training.diagnostics.diagnostic.Diagnostic",
    "torch.nn.Module",  # only one of LAYERS
)
# built only where the command line asks for an environment or a policy, never for a saved file
ENVIRONMENTS = ("gymnasium.core.Env",)
POLICIES = ("hiwm.data.policies.Policy",)
KINDS = (*PARTS, *ENVIRONMENTS, *POLICIES)
# layers of torch.nn that an argument may name; a list, because torch.nn also holds what compiles or loads code
LAYERS = {
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AvgPool1d", "AvgPool2d",
    "BatchNorm1d", "BatchNorm2d", "Bilinear", "CELU", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d",
    "ConvTranspose2d", "Dropout", "Dropout1d", "Dropout2d", "ELU", "Embedding", "Flatten", "GELU", "GLU", "GRU",
    "GRUCell", "GroupNorm", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "InstanceNorm1d", "InstanceNorm2d",
    "LSTM", "LSTMCell", "LayerNorm", "LeakyReLU", "Linear", "LogSigmoid", "LogSoftmax", "MaxPool1d", "MaxPool2d",
    "Mish", "MultiheadAttention", "PReLU", "PixelShuffle", "PixelUnshuffle", "RMSNorm", "RNN", "ReLU", "ReLU6",
    "SELU", "SiLU", "Sigmoid", "Softmax", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink",
    "TransformerEncoderLayer", "Unflatten", "Upsample",
}  # fmt: skip


def locate(target: Any, allow: Sequence[str] = (), kinds: Sequence[str] = KINDS) -> Any:
    """The class of that full name, or the class or function if `allow` names it.

    A saved hierarchy names its classes in a file, and importing a module runs its code. So nothing outside hiwm is
    imported before the name is trusted.

    Args:
        target: e.g. "hiwm.levels.encoders.mlp.MLPEncoder".
        allow: modules, packages or full names that the user trusts.
        kinds: full names of the classes of which any subclass in hiwm is trusted.

    Raises:
        ValueError: it is no name, not trusted, or there is no such thing.
    """
    if not isinstance(target, str) or not _is_name(target):
        raise ValueError(f"_target_ {target!r} is not trusted; expected the full name of a class, as module.Class")
    if _allowed(target, allow):
        return _asked_for(target, allow, kinds)
    module, _, name = target.rpartition(".")
    if name in LAYERS and "torch.nn.Module" in kinds and module in ("torch.nn", getattr(torch.nn, name).__module__):
        return getattr(torch.nn, name)
    if not module.startswith("hiwm."):
        raise ValueError(
            f"_target_ {target!r} is not trusted; expected a part of hiwm, a layer of torch.nn, or what `allow` names "
            f"({', '.join(allow) or 'nothing'}). If you trust its code: allow=[{','.join([*allow, target.split('.')[0]])}]"
        )
    found = _import(target)
    if not isinstance(found, type) or not found.__module__.startswith("hiwm."):
        raise ValueError(f"_target_ {target!r} is not trusted: it is not a class of {module}")
    if not _is_a(found, kinds):
        wanted = kinds[0] if len(kinds) == 1 else "a part of hiwm that a config may name"
        raise WrongKind(f"makes a {name}; expected a subclass of {wanted}")
    return found


class WrongKind(ValueError):
    """The class is hiwm's, but not of a kind that is asked for there."""


def _is_name(target: str) -> bool:
    """Whether it is a dotted name without private parts such as `__globals__`."""
    parts = target.removeprefix("__main__.").split(".")  # a notebook's own classes
    named = all(part.isidentifier() and not part.startswith("__") for part in parts)
    return named and "." in target


def _allowed(name: str, allow: Sequence[str]) -> bool:
    return any(name == trusted or name.startswith(f"{trusted}.") for trusted in allow)


def _asked_for(target: str, allow: Sequence[str], kinds: Sequence[str]) -> Any:
    """What `allow` names, if it is defined there too; or a subclass of one of `kinds`, wherever it is defined.

    A module of the user's that says `from pandas import read_pickle` would else let a file call it. A full name in `allow`
    trusts exactly that object.
    """
    found = _import(target)
    if not callable(found):
        raise ValueError(f"_target_ {target!r} is not trusted: it is not a class or function of {', '.join(allow)}")
    home = str(getattr(found, "__module__", None))
    if target in allow or _allowed(home, allow) or _is_a(found, kinds):
        return found
    raise ValueError(
        f"_target_ {target!r} is not trusted: it is defined in {home}, not in {', '.join(allow)}. If you trust it: "
        f"allow=[{','.join([*allow, target])}]"
    )


def _is_a(found: Any, kinds: Sequence[str]) -> bool:
    """Whether it is a class that has one of these full names among its bases; compares names to import nothing."""
    return isinstance(found, type) and any(_full_name(base) in kinds for base in found.__mro__)


def _import(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"_target_ {target!r} cannot be imported: {error}") from error


T = TypeVar("T")


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """In the `with` block, errors begin with the key that asks for the class."""
    try:
        yield
    except ArgumentError as error:
        raise ArgumentError(f"{key}.{error}") from error
    except WrongKind as error:
        raise ValueError(f"{key} {error}") from error
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def build_as(kind: type[T], key: str, config: Any, allow: Sequence[str] = (), **runtime: Any) -> T:
    """`build`, refusing before it runs what is not of a kind; every error names the key that asks for it."""
    name = _full_name(kind)
    with _naming(key):
        if isinstance(config, Mapping) and "_target_" in config:
            _locate_as(kind, config["_target_"], allow)
        found = build(config, allow, kinds=(name,), **runtime)
    if not isinstance(found, kind):  # made by a function
        raise ValueError(f"{key} makes a {type(found).__name__}; expected a subclass of {name}")
    return found


def check_described(
    kind: type[Any], key: str, described: Mapping[str, Any], allow: Sequence[str], runtime: Sequence[str] = ()
) -> None:
    """Refuse what `build_as` would refuse without building the arguments; `runtime` are the names of what it fills in."""
    if described.get("_target_") is None:
        raise ValueError(f"{key} has no _target_; expected the class of the {key.split('.')[-1]}")
    keys = [name for name in described if name != "_target_"]
    with _naming(key):
        try:
            takes = inspect.signature(_locate_as(kind, described["_target_"], allow))
            takes.bind(**dict.fromkeys([*keys, *(name for name in runtime if name in takes.parameters)]))
        except TypeError as error:
            raise ValueError(f"{described['_target_']}: {error}; its config keys are {sorted(keys)}") from error


def _locate_as(kind: type[Any], target: Any, allow: Sequence[str]) -> Any:
    """`locate`, which refuses a class that is not a subclass; what a function makes is not known before it is called."""
    found = locate(target, allow, (_full_name(kind),))
    if isinstance(found, type) and not issubclass(found, kind):
        raise WrongKind(f"makes a {found.__name__}; expected a subclass of {_full_name(kind)}")
    return found


def _full_name(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def build(config: Any, allow: Sequence[str] = (), *, kinds: Sequence[str] = KINDS, **runtime: Any) -> Any:
    """Call the config's `_target_` with its other keys, and with those of the `runtime` arguments that it names.

    An argument that has a `_target_` itself is built first, with the same `runtime` arguments; it may be any of `PARTS`, a
    layer of torch.nn, one of `kinds` or what `allow` names.

    Args:
        config: a mapping with the key `_target_`.
        allow: modules, packages or full names that the user trusts; see `locate`.
        kinds: full names of the classes of which it must be a subclass, unless `allow` names it.
        **runtime: sizes that depend on the data, and the like.

    Raises:
        ArgumentError: an argument is wrong, e.g. "solver.iterations is 0".
        ValueError: a class is not trusted, or it does not take its arguments.
    """
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise ValueError(f"no _target_ in {config!r:.200}; it names the class to build")
    target = config["_target_"]
    called = locate(target, allow, kinds)
    arguments = {key: _resolve(key, value, allow, kinds, runtime) for key, value in config.items() if key != "_target_"}
    takes = inspect.signature(called).parameters
    sizes = {name: value for name, value in runtime.items() if name in takes and name not in arguments}
    try:
        return called(**arguments, **sizes)
    except TypeError as error:
        raise ValueError(f"{target}: {error}; its config keys are {sorted(map(str, arguments))}") from error
    except NotImplementedError:
        raise  # the meta device lacks an operation; see `load_hierarchy`
    except (RuntimeError, ArithmeticError, LookupError, AttributeError, AssertionError, MemoryError) as error:
        if _allowed(target, allow):
            raise  # a mistake in the user's own code, which its traceback shows best
        raise ValueError(f"{target}: {' '.join(str(error).split())[:300]}; its config is {arguments!r:.300}") from error


def _resolve(key: str, value: Any, allow: Sequence[str], kinds: Sequence[str], runtime: Mapping[str, Any]) -> Any:
    """An argument, with every class built that it names."""
    if isinstance(value, Mapping) and "_target_" in value:
        with _naming(key):
            return build(value, allow, kinds=(*PARTS, *kinds), **runtime)
    if isinstance(value, (list, tuple)):
        return [_resolve(f"{key}[{i}]", item, allow, kinds, runtime) for i, item in enumerate(value)]
    return value


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
        found = mapping_at(result, path) if last == "_target_" else None
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


def mapping_at(config: Any, path: Sequence[str]) -> Mapping[str, Any] | None:
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
