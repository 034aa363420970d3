"""The hierarchy of levels: build, encode, save, load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from hiwm.build import build_as
from hiwm.data.columns import read_rows
from hiwm.files import read_yaml, saved_folder, write_yaml
from hiwm.levels.inverse import InverseModel
from hiwm.levels.level import Level
from hiwm.levels.parts import ActionEncoder, Encoder, Predictor, Regularizer
from hiwm.levels.target import EMATarget
from hiwm.settings import Settings
from hiwm.tensors import check_state, checksum_of, load_tensors, no_larger_than, save_tensors

DESCRIPTION = "hierarchy.yaml"

Inputs = Mapping[str, Tensor]
T = TypeVar("T")


class Parts(Settings):
    """What `LevelSpec.build` reads of the config of a level; other keys say how it is trained."""

    model_config = ConfigDict(extra="ignore")

    encoder: dict[str, Any]
    action_encoder: dict[str, Any]
    predictor: dict[str, Any]
    inverse: dict[str, Any] | None
    target: dict[str, Any] | None
    regularizers: dict[str, dict[str, Any]]
    loss_weights: dict[str, float]
    min_std: float | None
    horizon: int = Field(ge=1)


class _Level(Settings):
    """A level in `hierarchy.yaml`; see `LevelSpec`. The fingerprint is also the name of a folder."""

    config: dict[str, Any]
    stride: int = Field(ge=1)
    inputs: dict[str, list[Annotated[int, Field(ge=1)]]] = Field(min_length=1)
    dim_below: int = Field(ge=1)
    fingerprint: str = Field(pattern=r"^[\w-]*$")


class _Description(Settings):
    """`hierarchy.yaml`: the levels, and the checksums of all files with tensors (none in those of older versions)."""

    levels: list[_Level] = Field(min_length=1)
    files: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], str] = Field(default_factory=dict)


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

    def build(self, allow: Sequence[str] = (), key: str = "level") -> Level:
        """A new level with untrained weights; `key` is that of the level in the configuration, for error messages."""
        parts = Parts(**self.config)

        def part(kind: type[T], name: str, config: Any, **runtime: Any) -> T:
            return build_as(kind, f"{key}.{name}", config, allow, **runtime)

        encoder = part(Encoder, "encoder", parts.encoder, inputs=self.inputs)
        below = {"dim_below": self.dim_below, "stride": self.stride}
        actions = part(ActionEncoder, "action_encoder", parts.action_encoder, dim_latent=encoder.dim, **below)
        dims = {"dim_latent": encoder.dim, "dim_action": actions.dim}
        predictor = part(Predictor, "predictor", parts.predictor, **dims, encoder=encoder)
        inverse = target = None
        if parts.inverse is not None:
            source = prod(self.inputs["latent"]) if tuple(self.inputs) == ("latent",) else encoder.dim
            sizes = {"dim_source": source, "dim_target": encoder.dim, "dim_action": self.dim_below}
            inverse = part(InverseModel, "inverse", parts.inverse, **sizes)
        if parts.target is not None:
            target = part(EMATarget, "target", parts.target, encoder=encoder)
        sizes = {
            "inputs": self.inputs,
            "dim_latent": encoder.dim,
            "dim_chunk": self.stride * self.dim_below,
            "encoder": encoder,
        }
        regularizers = {
            name: part(Regularizer, f"regularizers.{name}", config, **sizes)
            for name, config in parts.regularizers.items()
        }
        try:
            return Level(
                stride=self.stride,
                horizon=parts.horizon,
                inputs=self.inputs,
                min_std=parts.min_std,
                encoder=encoder,
                action_encoder=actions,
                predictor=predictor,
                inverse=inverse,
                target=target,
                regularizers=regularizers,
                loss_weights=parts.loss_weights,
            )
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error


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
        return self.levels[0].predictor.scale.device  # `parameters()` would walk through all modules

    def truncate(self, num_levels: int) -> Hierarchy:
        """The lowest `num_levels` levels, sharing their weights."""
        if not 1 <= num_levels <= len(self):
            raise ValueError(f"num_levels is {num_levels}; expected 1 to {len(self)}")
        return Hierarchy(list(self.levels)[:num_levels], self.specs[:num_levels])

    @torch.no_grad()
    def encode(self, inputs: Inputs) -> list[Tensor]:
        """An observation, each input (..., *shape) -> its latent at every level, bottom first, (..., D_k)."""
        return encode_through([level.encode for level in self.levels], inputs)

    @torch.no_grad()
    def read_inputs(self, k: int, latent: Tensor) -> dict[str, Tensor] | None:
        """The observation that a latent of level k holds, (..., D_k) -> each input (..., *shape); None if an encoder does not keep its inputs."""
        for level in reversed(self.levels[1 : k + 1]):
            if (inputs := level.read_inputs(latent)) is None:
                return None
            latent = inputs["latent"]
        return self.levels[0].read_inputs(latent)

    def write_inputs(self, k: int, latent: Tensor, values: Inputs) -> Tensor | None:
        """Latents of level k, (..., D_k), with other values of some inputs in the observations they hold.

        Args:
            k: the level.
            latent: latents.
            values: inputs, each broadcastable to (..., *shape); where they are NaN, inputs stay as they are. Other inputs that
                depend on them do not change.

        Returns:
            (..., D_k); None if the latents do not hold these inputs.
        """
        held = self.read_inputs(k, latent)
        if held is None or not held.keys() >= values.keys():
            return None
        return self.encode(held | {name: torch.where(x.isnan(), held[name], x) for name, x in values.items()})[k]

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
        """`level<k>.safetensors`, then `hierarchy.yaml` with the checksums of all files with tensors in the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for k, level in enumerate(self.levels):
            save_tensors(folder / f"level{k}.safetensors", level.state_dict())
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
        files = {file.name: checksum_of(file) for file in sorted(folder.glob("*.safetensors"))}
        write_yaml(folder / DESCRIPTION, {"levels": described, "files": files})


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
        ValueError: there is no hierarchy, a file is damaged or of another hierarchy, or a part's class is not trusted; the
            message names the file and the key.
    """
    folder = saved_folder(Path(folder))
    path = folder / DESCRIPTION
    if not path.exists():
        raise ValueError(f"no hierarchy at {folder}: {path.name} is missing; `hiwm train` makes one")
    specs = load_specs(folder)
    levels: list[Level] = []
    for k, spec in enumerate(specs):
        weights = folder / f"level{k}.safetensors"
        tensors = load_tensors(weights)
        key = f"levels[{k}].config"
        try:
            level = _build_within(spec, tensors, allow, key)
            _check_below(spec, levels[-1] if levels else None)
        except _FAULTS as error:
            kind = "" if isinstance(error, ValueError) else f"{key}: {type(error).__name__}: "
            raise ValueError(f"{path}: {kind}{error}") from error
        check_state(level, tensors, weights)
        level.load_state_dict(tensors)
        levels.append(level)
    return Hierarchy(levels, specs).to(device).eval().requires_grad_(False)


# what classes raise for arguments that make no sense
_FAULTS = (
    ValueError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    AssertionError,
    MemoryError,
)


def load_specs(folder: Path) -> list[LevelSpec]:
    """The specifications in a saved hierarchy, whose files must be those that were saved with it.

    Raises:
        ValueError: `hierarchy.yaml` or another file is damaged, missing, or of another hierarchy.
    """
    path = folder / DESCRIPTION
    try:
        described = _Description(**read_yaml(path))
    except TypeError as error:  # a key that is not text
        raise ValueError(f"{path}: {error}; expected the keys levels and files") from error
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    for name, checksum in described.files.items():
        if checksum_of(folder / name) != checksum:
            raise ValueError(
                f"{folder / name} was not saved with this {path.name} (files.{name} is another checksum); "
                "run `hiwm train` again"
            )
    return [
        LevelSpec(**{**vars(level), "inputs": {name: tuple(shape) for name, shape in level.inputs.items()}})
        for level in described.levels
    ]


def _build_within(spec: LevelSpec, tensors: Mapping[str, Tensor], allow: Sequence[str], key: str) -> Level:
    """An untrained level that is no larger than its saved tensors.

    It is first built on the meta device, where nothing is allocated.
    """
    with no_larger_than(tensors):
        try:
            with torch.device("meta"):
                spec.build(allow, key)
        except NotImplementedError:  # a class that needs numbers in its constructor
            pass
        return spec.build(allow, key)


def _check_below(spec: LevelSpec, below: Level | None) -> None:
    """Refuse a level that does not fit the one below."""
    if below is None:
        return
    if dict(spec.inputs) != {"latent": (below.encoder.dim,)} or spec.dim_below != below.action_encoder.dim:
        raise ValueError(
            f"inputs is {dict(spec.inputs)} and dim_below is {spec.dim_below}; expected the sizes of the level below, "
            f"{{'latent': ({below.encoder.dim},)}} and {below.action_encoder.dim}"
        )
