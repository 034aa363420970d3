"""Several predictors in one: their mean, and how far they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hiwm.levels.distributed import first_row
from hiwm.levels.parts import Predictor


class EnsemblePredictor(Predictor):
    """K predictors, of any kind, with weights of their own (deep ensembles, arXiv 1612.01474).

    While training, row i of the global batch goes to member i mod K alone, so that members see different data and disagree
    where there was little of it; else the answer is the members' mean. A member rolls out from its own predictions.

    Args:
        dim_latent: size D of the latent.
        members: the predictors.
    """

    def __init__(self, *, dim_latent: int, members: Sequence[Predictor]) -> None:
        super().__init__(dim_latent)
        self.members: Sequence[Predictor] = nn.ModuleList(members)  # type: ignore[assignment]
        self.passes = sum(member.passes for member in members)
        self.context = max(member.context for member in members)

    def fit(self, change: Tensor) -> None:
        """See `Predictor.fit`."""
        for member in self.members:
            member.fit(change)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> (..., D)."""
        return self._pick(torch.stack([member(latent, action) for member in self.members]))

    def start(self, latent: Tensor) -> list[Any]:
        """What every member carries along."""
        return [member.start(latent) for member in self.members]

    def step(self, state: list[Any], action: Tensor) -> tuple[Tensor, list[Any]]:
        """See `Predictor.step`."""
        latents, states = zip(*(m.step(s, action) for m, s in zip(self.members, state, strict=True)), strict=True)
        return self._pick(torch.stack(latents)), list(states)

    def correct(self, state: list[Any], latent: Tensor) -> list[Any]:
        """See `Predictor.correct`."""
        return [member.correct(carried, latent) for member, carried in zip(self.members, state, strict=True)]

    def disagreement(self, state: list[Any], actions: Tensor) -> Tensor:
        """Variance of the members' rollouts, summed over dimensions, (B, H, A) -> (B, H)."""
        rollouts = [m.rollout_from(carried, actions) for m, carried in zip(self.members, state, strict=True)]
        return torch.stack(rollouts).var(0).sum(-1)

    def _pick(self, answers: Tensor) -> Tensor:
        """(K, B, ..., D) -> (B, ..., D)."""
        if not self.training:
            return answers.mean(0)
        rows = torch.arange(answers.shape[1], device=answers.device)
        return answers[(first_row(len(rows)) + rows) % len(self.members), rows]
