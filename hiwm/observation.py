"""Observations as an environment gives them, and as tensors for the levels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from hiwm.agent_spec import AgentSpec
from hiwm.hierarchy import Hierarchy
from hiwm.levels.device import upload

Observation = np.ndarray | Mapping[str, np.ndarray]


def to_tensors(observation: Observation, hierarchy: Hierarchy, spec: AgentSpec) -> tuple[dict[str, Tensor], bool]:
    """Named tensors with a batch axis, and whether the observation came without one.

    Args:
        observation: an array per input of level 0, each of its own shape or with a batch axis in front; an array alone where
            there is one input.
        hierarchy: the levels.
        spec: the environment that they were trained in, for error messages.

    Raises:
        ValueError: an input is missing, or an array has a wrong shape.
    """
    inputs = hierarchy.specs[0].inputs
    if not isinstance(observation, Mapping):
        if len(inputs) > 1:
            raise ValueError(
                f"the observation is one array; expected a dict with an array for each of {sorted(inputs)}"
            )
        observation = {next(iter(inputs)): observation}
    tensors, single = {}, False
    for name, shape in inputs.items():
        if name not in observation:
            raise ValueError(f"the observation has {sorted(observation)}; expected {sorted(inputs)}")
        value = upload(torch.as_tensor(np.array(observation[name])), hierarchy.device)
        single = value.shape == shape
        if tuple(value.shape[-len(shape) :]) != shape or value.dim() > len(shape) + 1:
            raise ValueError(
                f"{name} has the shape {tuple(value.shape)}; expected {shape} or (batch, *{shape}). Was the hierarchy "
                f"trained in another environment? Its environment is {spec.environment.get('_target_') or 'unknown'}"
            )
        value = value.float() if value.dtype == torch.float64 else value
        tensors[name] = value.unsqueeze(0) if single else value
    sizes = {name: len(value) for name, value in tensors.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the inputs have the batch sizes {sizes}; expected the same for all")
    return tensors, single
