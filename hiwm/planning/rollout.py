"""Candidate plans of a level and where they are predicted to lead."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """Candidate action sequences of a level and the latents they are predicted to lead to.

    Args:
        start: latents of B episodes, (B, D).
        actions: S candidates an episode, H actions each, (B, S, H, A).
        latents: after each action, (B, S, H, D).
        variance: among the members of an ensemble, (B, S, H, D); None for other predictors.
    """

    start: Tensor
    actions: Tensor
    latents: Tensor
    variance: Tensor | None = None

    @staticmethod
    def staying(latent: Tensor) -> Rollout:
        """One step that does not move: a cost of it is the cost of the present latent (B, D)."""
        here = latent[:, None, None]
        return Rollout(latent, here[..., :0], here)
