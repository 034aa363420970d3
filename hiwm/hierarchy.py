"""The hierarchy of levels: build, encode, save, load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from hiwm.build import build
from hiwm.data.columns import read_rows
from hiwm.levels.level import Level
from hiwm.tensors import load_tensors

Inputs = Mapping[str, Tensor]

ROWS_AT_ONCE, BYTES_AT_ONCE = 2048, 32 << 20  # of inputs as float32 that are encoded at once


@dataclass(frozen=True)
class LevelSpec:
    """The specification of one level, from which it can be built again.

    Args:
        config: parts of the level, as in `configs/level/`.
        stride: steps of the level below in one step.
        inputs: shape of one step of every input.
        dim_below: size of one action of the level below.
        fingerprint: stands for the config, the level below, the data and the seed.
    """

    config: Mapping[str, Any]
    stride: int
    inputs: Mapping[str, tuple[int, ...]]
    dim_below: int
    fingerprint: str

    def build(self, allow: Sequence[str] = ()) -> Level:
        """A new level with untrained weights."""
        parts = dict(self.config)
        encoder = build(parts["encoder"], allow, inputs=self.inputs)
        actions = build(
            parts["action_encoder"], allow, dim_latent=encoder.dim, dim_below=self.dim_below, stride=self.stride
        )
        return Level(
            stride=self.stride,
            horizon=parts["horizon"],
            inputs=self.inputs,
            min_std=parts["min_std"],
            encoder=encoder,
            action_encoder=actions,
            predictor=build(parts["predictor"], allow, dim_latent=encoder.dim, dim_action=actions.dim),
            inverse=None
            if parts["inverse"] is None
            else build(
                parts["inverse"],
                allow,
                dim_source=prod(self.inputs["latent"]) if tuple(self.inputs) == ("latent",) else encoder.dim,
                dim_target=encoder.dim,
                dim_action=self.dim_below,
            ),
            target=None if parts["target"] is None else build(parts["target"], allow, encoder=encoder),
            regularizers={
                name: build(
                    part, allow, inputs=self.inputs, dim_latent=encoder.dim, dim_chunk=self.stride * self.dim_below
                )
                for name, part in parts["regularizers"].items()
            },
            loss_weights=parts["loss_weights"],
        )


class Hierarchy(nn.Module):
    """Levels, bottom first.

    Args:
        levels: the levels.
        specs: what each was made from.
    """

    def __init__(self, levels: Sequence[Level], specs: Sequence[LevelSpec]) -> None:
        super().__init__()
        self.levels: Sequence[Level] = nn.ModuleList(levels)  # type: ignore[assignment]
        self.specs = tuple(specs)
        self.strides = tuple(level.stride for level in levels)
        #: environment steps in one step of each level
        self.periods = tuple(prod(self.strides[: k + 1]) for k in range(len(levels)))

    def __len__(self) -> int:
        return len(self.levels)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def truncate(self, num_levels: int) -> Hierarchy:
        """The lowest `num_levels` levels, sharing their weights."""
        if not 1 <= num_levels <= len(self):
            raise ValueError(f"num_levels is {num_levels}; expected 1 to {len(self)}")
        return Hierarchy(list(self.levels)[:num_levels], self.specs[:num_levels])

    @torch.no_grad()
    def encode(self, inputs: Inputs) -> list[Tensor]:
        """An observation, each input (..., *shape) -> its latent at every level, bottom first, (..., D_k)."""
        return encode_through([level.encode for level in self.levels], inputs)

    def encode_many(self, inputs: Mapping[str, Any], rows: np.ndarray) -> list[Tensor]:
        """`encode` of some rows (n,) of columns (N, *shape), a block at a time, on the CPU afterwards."""
        size = 4 * sum(int(np.prod(x.shape[1:])) for x in inputs.values())
        block = min(ROWS_AT_ONCE, max(1, BYTES_AT_ONCE // size))
        blocks = []
        for i in range(0, len(rows), block):
            named = {name: torch.from_numpy(read_rows(x, rows[i : i + block])) for name, x in inputs.items()}
            blocks.append(self.encode({name: x.to(self.device) for name, x in named.items()}))
        return [torch.cat(of_level).cpu() for of_level in zip(*blocks, strict=True)]

    def save(self, folder: Path) -> None:
        """`level<k>.safetensors` and `hierarchy.yaml`."""
        folder.mkdir(parents=True, exist_ok=True)
        for k, level in enumerate(self.levels):
            save_file(
                {name: value.contiguous() for name, value in level.state_dict().items()},
                folder / f"level{k}.safetensors",
            )
        described = [
            {
                "config": dict(spec.config),
                "stride": spec.stride,
                "inputs": {name: list(shape) for name, shape in spec.inputs.items()},
                "dim_below": spec.dim_below,
                "fingerprint": spec.fingerprint,
            }
            for spec in self.specs
        ]
        (folder / "hierarchy.yaml").write_text(yaml.safe_dump({"levels": described}, sort_keys=False))


def encode_through(encoders: Sequence[Callable[[Inputs], Tensor]], inputs: Inputs) -> list[Tensor]:
    """An observation through the encoders of all levels, bottom first -> its latent at every level."""
    latents = []
    for encode in encoders:
        latents.append(encode(inputs))
        inputs = {"latent": latents[-1]}
    return latents


def load_hierarchy(folder: str | Path, allow: Sequence[str] = (), device: str = "cpu") -> Hierarchy:
    """Load what `Hierarchy.save` wrote; runs no code from the files.

    Args:
        folder: the saved hierarchy.
        allow: packages trusted for the parts' classes besides hiwm's own.
        device: where to put it.

    Raises:
        ValueError: no hierarchy there, or a part's class is not trusted.
    """
    folder = Path(folder)
    described = folder / "hierarchy.yaml"
    if not described.exists():
        raise ValueError(f"no hierarchy at {folder}: {described.name} is missing; `hiwm train` makes one")
    specs = []
    for entry in yaml.safe_load(described.read_text())["levels"]:
        entry["inputs"] = {name: tuple(shape) for name, shape in entry["inputs"].items()}
        specs.append(LevelSpec(**entry))
    levels = []
    for k, spec in enumerate(specs):
        level = spec.build(allow)
        level.load_state_dict(load_tensors(folder / f"level{k}.safetensors"))
        levels.append(level)
    return Hierarchy(levels, specs).to(device).eval().requires_grad_(False)
