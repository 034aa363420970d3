"""A simulated GPU: tensors with real data on the CPU that count as "cuda" and refuse to meet CPU tensors.

It works with a torch that knows no CUDA, and it is strict where a GPU is: an operation on tensors of both devices raises, as
does `numpy()` of a device tensor, or a generator of the other device. It counts what a GPU is slow at:

- uploads and downloads: copies of a tensor to the device and back;
- waits: moments at which the CPU has to wait for the device. These are `item()`, `tolist()`, `nonzero()`, a mask as an index,
  `torch.equal` and the like, every download, and every upload that is not from pinned memory with `non_blocking=True`
  (torch calls cudaStreamSynchronize for those).

Not simulated: NCCL, autocast (`torch.cuda.is_bf16_supported` is false), streams, kernels.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
#: wait for the device, because the CPU needs a value or the size of the result
WAITING = {
    "_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive",
    "unique_dim_consecutive", "bincount", "linalg_eigh", "_linalg_eigh", "_linalg_solve_ex", "linalg_inv_ex", "_linalg_check_errors",
}  # fmt: skip


@dataclass
class Counts:
    """What happened since the start or the last `reset`.

    Attributes:
        uploads, downloads: copied tensors.
        waits: moments at which the CPU waited.
        where: line of hiwm -> number of waits.
    """

    uploads: int = 0
    downloads: int = 0
    waits: int = 0
    where: Counter[str] = field(default_factory=Counter)

    def reset(self) -> None:
        self.uploads = self.downloads = self.waits = 0
        self.where = Counter()

    def copy(self) -> Counts:
        return replace(self, where=Counter(self.where))

    def wait(self) -> None:
        self.waits += 1
        frame = sys._getframe(1)  # traceback.extract_stack would read source files at every wait
        while "/tests/" in frame.f_code.co_filename or "/torch" in frame.f_code.co_filename:
            if (frame := frame.f_back) is None:
                return
        self.where["/".join(frame.f_code.co_filename.split("/")[-2:]) + f":{frame.f_lineno}"] += 1


COUNTS = Counts()


class DeviceTensor(Tensor):
    """A tensor on the simulated device; `inner` holds its data. To C++ it is a meta tensor without storage."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> DeviceTensor:
        self = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device="meta",
        )  # fmt: skip
        self.inner = inner
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = is_cpu = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        COUNTS.wait()
        return self.inner.tolist()

    def __format__(self, how: str) -> str:
        COUNTS.wait()
        return format(self.inner.item(), how) if self.dim() == 0 else repr(self)

    def get_device(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"DeviceTensor({self.inner!r})"


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: check where its tensors are, count, and compute with the data."""
    tensors: list[Tensor] = []
    _mapped((args, kwargs), lambda x: tensors.append(x) if isinstance(x, Tensor) else None)
    on_device = [x for x in tensors if isinstance(x, DeviceTensor)]
    given = kwargs.get("device")
    there = given.type in ("cuda", "meta") if given is not None else bool(on_device)
    if not there and not on_device:
        return func(*args, **kwargs)
    name = func._schema.name.split("::")[1]
    _check(func, name, args, tensors, there)
    _count(name, args, kwargs, there)
    inner_args, inner_kwargs = _mapped((args, kwargs), _inner)
    if given is not None:
        inner_kwargs["device"] = CPU
    if inner_kwargs.get("pin_memory"):
        inner_kwargs["pin_memory"] = False
    found = func(*inner_args, **inner_kwargs)
    if func._schema.is_mutable and name.endswith("_"):
        return args[0] if func._schema.returns else None
    out: dict[int, Any] = {}
    _mapped(kwargs.get("out"), lambda x: out.update({id(_inner(x)): x}))
    return _mapped(
        found, lambda x: out[id(x)] if id(x) in out else DeviceTensor(x) if there and isinstance(x, Tensor) else x
    )


def _mapped(values: Any, change: Any) -> Any:
    """Nested tuples, lists and dicts with every entry changed; quicker than torch's, which every operation would pay for."""
    if isinstance(values, (tuple, list)):
        return type(values)([_mapped(x, change) for x in values])
    if isinstance(values, dict):
        return {name: _mapped(x, change) for name, x in values.items()}
    return change(values)


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, DeviceTensor) else x


def _check(func: Any, name: str, args: Any, tensors: list[Tensor], there: bool) -> None:
    """Raise where CUDA would."""
    if name in ("_to_copy", "copy_", "index", "index_put", "index_put_", "_index_put_impl_"):
        if name.startswith(("index", "_index")) and not isinstance(args[0], DeviceTensor):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        return
    strangers = [x for x in tensors if not isinstance(x, DeviceTensor)]
    scalars_are_fine = torch.Tag.pointwise in func.tags or name in ("fill_", "where", "masked_fill_", "masked_fill")
    if any(x.dim() or not scalars_are_fine for x in strangers) and there:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({func})"
        )


def _count(name: str, args: Any, kwargs: dict[str, Any], there: bool) -> None:
    if name in WAITING:
        COUNTS.wait()
    elif name == "_to_copy":
        _count_copy(args[0], there, kwargs.get("non_blocking", False))
    elif name == "copy_":
        _count_copy(args[1], isinstance(args[0], DeviceTensor), (*args, False)[2] or kwargs.get("non_blocking", False))
    elif name.startswith(("index", "_index")) and len(args) > 1 and isinstance(args[1], (list, tuple)):
        for index in args[1]:
            if isinstance(index, Tensor) and not isinstance(index, DeviceTensor):
                _count_copy(index, True, False)
            if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                COUNTS.wait()
    elif name == "repeat_interleave" and kwargs.get("output_size") is None:
        COUNTS.wait()


def _count_copy(source: Tensor, to_device: bool, non_blocking: bool) -> None:
    from_device = isinstance(source, DeviceTensor)
    if from_device == to_device:
        return
    COUNTS.uploads += to_device
    COUNTS.downloads += from_device
    if from_device or not (non_blocking and getattr(source, "pinned", False)):
        COUNTS.wait()


def _check_generator(args: Any, kwargs: dict[str, Any]) -> None:
    generator = kwargs.get("generator")
    if isinstance(generator, DeviceGenerator):
        first = args[0] if args and isinstance(args[0], Tensor) else None
        device = torch.device(kwargs.get("device") or (CPU if first is None else first.device))
        if generator.device.type != device.type:
            raise RuntimeError(
                f"Expected a '{device.type}' device type for generator but found '{generator.device.type}'"
            )


class DeviceGenerator(torch.Generator):
    """A generator of either device; the draws are those of the CPU."""

    def __new__(cls, device: str | torch.device = "cpu") -> DeviceGenerator:
        self = super().__new__(cls)
        self.where = torch.device(device)
        return self

    def __init__(self, device: str | torch.device = "cpu") -> None:
        super().__init__()

    device = property(lambda self: CUDA if self.where.type == "cuda" else CPU)


def _named(x: Any) -> Any:
    """What C++ is to see instead of a device: meta instead of cuda, which torch may not be built with."""
    if isinstance(x, torch.device) or (isinstance(x, str) and x.startswith("cuda")):
        return torch.device("meta") if torch.device(x).type == "cuda" else x
    return x


class _Names(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        _check_generator(args, kwargs)
        wanted = kwargs.get("device")
        if wanted is not None and func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            # C++ would make a meta tensor without data
            return func(*args, **(kwargs | {"device": "cpu"})).to(_named(wanted))
        return func(*map(_named, args), **{name: _named(x) for name, x in kwargs.items()})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def _pin_memory(tensor: Tensor) -> Tensor:
    pinned = tensor.clone()
    pinned.pinned = True  # type: ignore[attr-defined]
    return pinned


@contextmanager
def _inference_mode(mode: bool = True) -> Iterator[None]:
    with torch.no_grad() if mode else nullcontext():
        yield


def on_cpu(values: Any) -> Any:
    """Nested values with every device tensor's data in its place."""
    return _mapped(values, _inner)


@contextmanager
def simulated_device() -> Iterator[Counts]:
    """Everything in this block finds one GPU."""
    real_save, real_load = torch.save, torch.load

    def load(path: Any, map_location: Any = None, **kwargs: Any) -> Any:
        loaded = real_load(path, map_location="cpu", **kwargs)
        if map_location is None or torch.device(map_location).type == "cpu":
            return loaded
        return _mapped(loaded, lambda x: x.to(map_location) if isinstance(x, Tensor) else x)

    patches = [
        patch.object(torch, "save", lambda values, *args, **kwargs: real_save(on_cpu(values), *args, **kwargs)),
        patch.object(torch, "load", load),
        patch.object(torch, "Generator", DeviceGenerator),
        # a wrapper cannot be a view in inference mode
        patch.object(torch, "inference_mode", _inference_mode),
        patch.object(Tensor, "pin_memory", _pin_memory),
        *(
            patch.object(torch.cuda, name, function)
            for name, function in {
                "_lazy_init": lambda: None, "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
                "set_device": lambda device: None, "synchronize": lambda device=None: COUNTS.wait(),
                "is_bf16_supported": lambda including_emulation=True: False, "get_rng_state": lambda device=0: torch.get_rng_state(),
                "set_rng_state": lambda state, device=0: None,
            }.items()
        ),
    ]  # fmt: skip
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    for one in patches:
        one.start()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    COUNTS.reset()
    try:
        with _Mode(), _Names():
            yield COUNTS
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        for one in reversed(patches):
            one.stop()
