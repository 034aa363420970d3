"""How the loop calls what it trains: alone, with a copy in every process, or sharded over the processes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from hiwm.levels.precision import compile_in_place
from hiwm.levels.trainable import Trainable
from hiwm.training.distributed import Processes

Result = TypeVar("Result")


class Sharded(nn.Module):
    """A copy of a module whose parameters, gradients and optimiser state are split between the processes (FSDP2).

    The layers of every `nn.TransformerEncoder` are gathered one after another, the other parameters together.

    Args:
        original: on the CPU; the same in every process.
        processes: this process and the others.
    """

    def __init__(self, original: Trainable, processes: Processes) -> None:
        super().__init__()
        self.module = copy.deepcopy(original)
        mesh = init_device_mesh(processes.device.type, (processes.world_size,))
        for part in [*self.module.modules()]:
            if isinstance(part, nn.TransformerEncoder):
                for layer in part.layers:
                    fully_shard(layer, mesh=mesh)
        fully_shard(self, mesh=mesh)
        register_fsdp_forward_method(self, "measure")

    def forward(self, *arguments: Any) -> Any:
        """The losses."""
        return self.module(*arguments)

    def measure(self, function: Callable[[Any], Result]) -> Result:
        """What a function finds in the module; it may call any method and sees whole parameters."""
        return function(self.module)


def wrap(module: Trainable, processes: Processes, *, compile: bool, shard: bool) -> nn.Module:
    """The module on its device, called as the loop calls it; it trains the module itself or, if it is sharded, a copy."""
    if shard and processes.world_size > 1:
        return Sharded(module.cpu(), processes)  # no device holds all parameters
    module.to(processes.device)
    wrapped = DistributedDataParallel(module) if processes.world_size > 1 else module
    if compile:
        compile_in_place(wrapped)
    return wrapped


def trained(wrapped: nn.Module) -> Trainable:
    """The module whose parameters are trained."""
    module: Any = wrapped.module if isinstance(wrapped, (Sharded, DistributedDataParallel)) else wrapped
    return module


def measured(wrapped: nn.Module, function: Callable[[Any], Result]) -> Result:
    """What a function without gradients finds in the trained module."""
    if not isinstance(wrapped, Sharded):
        return function(trained(wrapped))
    with torch.no_grad():
        result = wrapped.measure(function)
    assert isinstance(wrapped, FSDPModule)
    wrapped.reshard()
    return result


def finish(wrapped: nn.Module, module: Trainable, processes: Processes) -> None:
    """Put the trained weights into the module that was wrapped."""
    if isinstance(wrapped, Sharded):
        for mine, value in zip(module.state_dict().values(), wrapped.module.state_dict().values(), strict=True):
            mine.copy_(whole(value))
        module.to(processes.device)


def own(value: Tensor) -> Tensor:
    """This process's part of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """A tensor of which every process may have a part; all processes call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def saved(state: Any, keep: bool) -> Any:
    """A state dict with whole tensors, or with None for the sharded ones that this process does not keep."""
    if isinstance(state, dict):
        return {key: saved(value, keep) for key, value in state.items()}
    if not isinstance(state, DTensor):
        return state
    value = whole(state)
    return value.cpu() if keep else None


def split_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, split as another of its shape is."""
    if not isinstance(like, DTensor):
        return value
    if value.shape != like.shape:
        raise ValueError(f"a tensor has the shape {tuple(value.shape)}; expected {tuple(like.shape)}")
    mesh = like.device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, like.placements, src_data_rank=None)


def load_module(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a saved state dict into a module that may be sharded."""
    mine = module.state_dict()
    module.load_state_dict({name: split_like(value, mine[name]) for name, value in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a saved state dict into an optimiser whose parameters may be sharded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    of_parameters = {
        i: {name: x if x.dim() == 0 else split_like(x, parameters[i]) for name, x in numbers.items()}
        for i, numbers in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": of_parameters})
