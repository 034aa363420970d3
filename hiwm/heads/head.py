"""The base class of all heads, which saves and loads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor, nn

from hiwm.tensors import load_with_metadata

Self = TypeVar("Self", bound="Head")


class Head(nn.Module):
    """A module that is fitted to the frozen latents of one level.

    Subclasses take keyword arguments only: plain values (numbers, lists, text), or tensors that they register as buffers
    of the same name.

    Attributes:
        arguments: arguments of the constructor; None in place of a tensor, because the state dict holds it.
    """

    arguments: dict[str, Any]

    # before the subclass's own __init__, so that no subclass has to list its arguments a second time
    def __new__(cls: type[Self], **arguments: Any) -> Self:
        head = object.__new__(cls)
        head.arguments = {name: None if isinstance(value, Tensor) else value for name, value in arguments.items()}
        return head

    def save(self, path: Path) -> None:
        """Write one safetensors file: the state dict, and in its metadata the class and the constructor arguments."""
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, path, {"head": type(self).__name__, "arguments": json.dumps(self.arguments)})

    @classmethod
    def load(cls: type[Self], path: Path, device: str = "cpu") -> Self:
        """Read what `save` wrote, in eval mode and without gradients.

        Raises:
            ValueError: the file is damaged, or it holds something else than a head of this class and version.
        """
        tensors, metadata = load_with_metadata(path, device)
        found = metadata.get("head", "no head")
        if found != cls.__name__:
            raise ValueError(
                f"{path} holds {found}; expected {cls.__name__}. Remove it, and `hiwm train` writes it again"
            )
        arguments = json.loads(metadata["arguments"])
        try:
            head = cls(**{name: tensors.get(name, value) for name, value in arguments.items()})
            head.load_state_dict(tensors)
        except (TypeError, RuntimeError) as error:  # arguments or tensors that this version does not know
            raise ValueError(
                f"{path} holds a {found} of another version of hiwm ({error}); expected one of this version. Remove it, and "
                "`hiwm train` writes it again"
            ) from error
        return head.to(device).eval().requires_grad_(False)
