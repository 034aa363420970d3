"""The records from which the losses of a level are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EncodedClip:
    """A clip of N steps, encoded.

    Args:
        inputs: the standardised inputs, each (B, N+1, ...).
        latent: z, (B, N+1, D).
        action: m, (B, N, A).
        target: targets of the predictions, (B, N+1, D): the latents, or those of a target encoder.
        chunk: the standardised actions of the level below that m stands for, (B, N, stride * A_below).
    """

    inputs: Mapping[str, Tensor]
    latent: Tensor
    action: Tensor
    target: Tensor
    chunk: Tensor

    def windows(self, horizon: int) -> EncodedClip:
        """Cut into consecutive windows of `horizon` steps, as rows of the batch; a shorter rest is left out."""
        count = self.action.shape[1] // horizon

        def cut(value: Tensor, size: int) -> Tensor:
            pieces = [value[:, i * horizon : i * horizon + size] for i in range(count)]
            return torch.stack(pieces, 1).flatten(0, 1)

        return EncodedClip(
            {name: cut(value, horizon + 1) for name, value in self.inputs.items()}, cut(self.latent, horizon + 1),
            cut(self.action, horizon), cut(self.target, horizon + 1), cut(self.chunk, horizon),
        )  # fmt: skip


@dataclass(frozen=True)
class LevelOutput:
    """A clip, encoded and predicted by a level.

    Args:
        inputs: the standardised inputs, each (B, T+1, ...).
        latent: z, (B, T+1, D).
        action: m, (B, T, A).
        predicted: predicted latents, (B, T, D): one step ahead within the first C latents, the predictor's context, then
            open-loop. With C = 1 it is an open-loop rollout from the first latent.
        target: targets of the predictions, (B, T, D): the latents, or those of a target encoder.
        chunk: the standardised actions of the level below that m stands for, (B, T, stride * A_below).
    """

    inputs: Mapping[str, Tensor]
    latent: Tensor
    action: Tensor
    predicted: Tensor
    target: Tensor
    chunk: Tensor

    def rows(self, which: str) -> Tensor:
        """Rows of the batch for a regularizer: z (N, D), m (N, A), or [z, m] (N, D + A)."""
        if which == "latent":
            return self.latent.flatten(0, 1)
        if which == "action":
            return self.action.flatten(0, 1)
        return torch.cat([self.latent[:, :-1], self.action], -1).flatten(0, 1)
