"""The base class of all heads, which saves and loads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from hiwm.tensors import check_state, load_with_metadata, no_larger_than, save_tensors

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
        metadata = {"head": type(self).__name__, "arguments": json.dumps(self.arguments)}
        save_tensors(path, self.state_dict(), metadata)

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
        try:
            arguments = json.loads(metadata["arguments"])
            with no_larger_than(tensors):
                head = cls(**{name: tensors.get(name, value) for name, value in arguments.items()})
            check_state(head, tensors, path)
            head.load_state_dict(tensors)
        except (TypeError, RuntimeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            # arguments or tensors that this version does not know
            raise ValueError(
                f"{path} holds a {found} of another version of hiwm ({error}); expected one of this version. Remove it, and "
                "`hiwm train` writes it again"
            ) from error
        return head.to(device).eval().requires_grad_(False)
