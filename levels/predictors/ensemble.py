"""Several predictors of one kind in one call: their mean, and how far they disagree."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hiwm.levels.parts import Predictor


class EnsemblePredictor(Predictor):
    """K copies of a predictor with weights of their own, computed together (deep ensembles, arXiv 1612.01474).

    While training, row i of a batch goes to member i mod K alone, so that members see different data and disagree where
    there was little of it; else the answer is the members' mean.

    Args:
        dim_latent: size D of the latent.
        member: what to copy; its weights are drawn anew for every copy.
        members: K.
    """

    def __init__(self, *, dim_latent: int, member: Predictor, members: int = 5) -> None:
        super().__init__(dim_latent)
        copies = nn.ModuleList(copy.deepcopy(member) for _ in range(members))
        for module in copies.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        self.members: Sequence[Predictor] = copies  # type: ignore[assignment]

    def fit(self, change: Tensor) -> None:
        """See `Predictor.fit`."""
        for member in self.members:
            member.fit(change)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> (..., D)."""
        flat = latent.reshape(-1, latent.shape[-1])
        return self.rollout(flat, action.reshape(len(flat), 1, -1)).reshape(latent.shape)

    def rollout(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(B, D), (B, H, A) -> (B, H, D)."""
        answers = self.rollouts(latent, actions)
        if not self.training:
            return answers.mean(0)
        row = torch.arange(len(latent), device=latent.device)
        return answers[row % len(self.members), row]

    def rollouts(self, latent: Tensor, actions: Tensor) -> Tensor:
        """Every member's own rollout, (B, D), (B, H, A) -> (K, B, H, D)."""
        states = [{**dict(member.named_parameters()), **dict(member.named_buffers())} for member in self.members]
        stacked = {f"member.{name}": torch.stack([state[name] for state in states]) for name in states[0]}
        template = _Rollout(self.members[0])
        return torch.vmap(lambda state: functional_call(template, state, (latent, actions)))(stacked)

    def disagreement(self, latent: Tensor, actions: Tensor) -> Tensor:
        """Variance of the members' rollouts, summed over dimensions, (B, D), (B, H, A) -> (B, H)."""
        return self.rollouts(latent, actions).var(0).sum(-1)


class _Rollout(nn.Module):
    """A member whose call is its rollout, as `functional_call` needs it."""

    def __init__(self, member: Predictor) -> None:
        super().__init__()
        self.member = member

    def forward(self, latent: Tensor, actions: Tensor) -> Tensor:
        return self.member.rollout(latent, actions)
