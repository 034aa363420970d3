"""Candidate plans of a level and where they are predicted to lead."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """Candidate action sequences of a level and the latents they are predicted to lead to.

    Args:
        start: latents of B episodes, (B, D).
        actions: S candidates per episode, H actions each, (B, S, H, A).
        latents: after each action, (B, S, H, D).
        variance: among the members of an ensemble, (B, S, H, D); None for other predictors.
    """

    start: Tensor
    actions: Tensor
    latents: Tensor
    variance: Tensor | None = None

    @staticmethod
    def staying(latent: Tensor) -> Rollout:
        """A candidate of one step that stays at the latents (B, D); its cost is the cost of staying."""
        latents = latent[:, None, None]
        return Rollout(latent, latents[..., :0], latents)
