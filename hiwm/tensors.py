"""Files of named tensors: safetensors, which hold no code, with a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from hiwm.disk import replacing
from hiwm.files import CHECKSUM


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors and a checksum: all or none."""
    plain = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    known = dict(metadata or {})
    with replacing(path, sum(value.nbytes for value in plain.values())) as temporary:
        save_file(plain, temporary, {**known, CHECKSUM: _digest(plain, known)})


def load_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Named tensors that `save_tensors` wrote.

    Raises:
        ValueError: the file is missing or damaged, or its content is not what was saved.
    """
    return load_with_metadata(path, device)[0]


def load_with_metadata(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors, and the metadata that was written with them; errors as in `load_tensors`."""
    _check_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and `hiwm train` writes it again") from error
    checksum = metadata.pop(CHECKSUM, None)  # files of older versions have none
    if checksum is not None and checksum != _digest(tensors, metadata):
        raise ValueError(
            f"{path} is damaged (its content does not match its checksum); remove it, and `hiwm train` writes it again"
        )
    return {name: value.to(device) for name, value in tensors.items()}, metadata


def checksum_of(path: Path) -> str:
    """The checksum that was saved with the tensors; "" in files of older versions. Errors as in `load_tensors`."""
    _check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(CHECKSUM, "")
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and `hiwm train` writes it again") from error


def load_state(module: nn.Module, path: Path) -> dict[str, str]:
    """Put a file's tensors into a module whose names, shapes and types they must have; returns the metadata.

    Raises:
        ValueError: as in `load_tensors`; or a tensor is missing, unknown, of another shape or type, or a weight is NaN.
    """
    tensors, metadata = load_with_metadata(path)
    check_state(module, tensors, path)
    module.load_state_dict(tensors)
    return metadata


def check_state(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that do not fit the module; errors as in `load_state`."""
    wanted = module.state_dict()
    weights = {name for name, _ in module.named_parameters()}
    for name in sorted({*wanted, *tensors}):
        if name not in tensors or name not in wanted:
            fault = "is missing" if name not in tensors else "is not expected"
            raise ValueError(
                f"{path}: the tensor {name!r} {fault}; expected those of the classes that the file names. "
                "If another version of hiwm wrote it, remove it, and `hiwm train` writes it again"
            )
        found, like = tensors[name], wanted[name]
        if found.shape != like.shape or found.dtype != like.dtype:
            raise ValueError(
                f"{path}: the tensor {name!r} is {found.dtype} {tuple(found.shape)}; expected {like.dtype} {tuple(like.shape)}"
            )
        if name in weights and not torch.isfinite(found).all():
            raise ValueError(f"{path}: the weight {name!r} has values that are not finite numbers; train it again")


@contextmanager
def no_larger_than(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """In the `with` block, refuse to make modules that need far more memory than these tensors.

    A file may name sizes that its tensors do not have; without a limit they would fill the memory before any comparison.
    """
    total = sum(value.numel() for value in tensors.values())
    left = 4 * total + 10_000  # a level is built twice, on the meta device first, and an ensemble copies its members

    def count(module: nn.Module, name: str, value: Tensor | None) -> None:
        nonlocal left
        left -= 1 if value is None else max(1, value.numel())
        if left < 0:
            raise ValueError(f"the sizes that it names need more than the {total:,} numbers of its tensors")

    handles = [register(count) for register in (
        hooks.register_module_parameter_registration_hook, hooks.register_module_buffer_registration_hook
    )]  # fmt: skip
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is {'not a file' if path.exists() else 'missing'}; `hiwm train` writes it again")


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes, bytes and metadata."""
    found = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
