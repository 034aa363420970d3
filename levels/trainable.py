"""The interface of the training loop: a level, several levels at once, or a pretraining objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hiwm.levels.clip import Clip


class Trainable(nn.Module, ABC):
    """A module with losses on clips."""

    @abstractmethod
    def forward(self, clip: Clip, generator: torch.Generator) -> dict[str, Tensor]:
        """Named scalars, unweighted; the call that DistributedDataParallel wraps.

        Args:
            clip: inputs and actions.
            generator: randomness of the losses, in the same state in every process.
        """

    @abstractmethod
    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The scalar to minimise."""

    def after_step(self) -> None:
        """Called after every optimiser step."""
