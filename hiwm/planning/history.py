"""What the agent observed and did, at every level: the context of predictors with memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hiwm.hierarchy import Hierarchy, Inputs


@dataclass
class Step:
    """One environment step of B episodes.

    Args:
        observation: each input, (B, ...).
        action: (B, A).
        latents: of every level, (B, D) each; empty until first needed.
    """

    observation: Inputs
    action: Tensor
    latents: list[Tensor] = field(default_factory=list)

    def select(self, rows: Tensor) -> Step:
        """The same for some of the episodes."""
        observation = {name: x[rows] for name, x in self.observation.items()}
        return Step(observation, self.action[rows], [latent[rows] for latent in self.latents])


class History:
    """The last environment steps of a batch of episodes that run in step.

    Args:
        hierarchy: whose levels look back; nothing is kept if no predictor has a context of more than one latent.
        encode: observation -> its latent at every level.
    """

    def __init__(self, hierarchy: Hierarchy, encode: Callable[[Inputs], list[Tensor]]) -> None:
        self.hierarchy = hierarchy
        self.encode = encode
        reach = [
            (level.predictor.context - 1) * p for level, p in zip(hierarchy.levels, hierarchy.periods, strict=True)
        ]
        self.length = max(reach)
        self.steps: list[Step] = []  # oldest first

    def append(self, observation: Inputs, action: Tensor) -> None:
        """Add an environment step: the observation, each input (B, ...), and the action taken then, (B, A)."""
        if self.length:
            self.steps = [*self.steps, Step(observation, action)][-self.length :]

    def select(self, rows: Tensor) -> None:
        """Continue with some of the environments only."""
        self.steps = [step.select(rows) for step in self.steps]

    def context(self, k: int, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The observed latents and actions that level k's predictor can use.

        Args:
            k: the level.
            latent: where the episodes are now, (B, D).

        Returns:
            The last c latents (B, c, D), the present one last, and the actions between them (B, c-1, A); c is the predictor's
            context, or less early in an episode.
        """
        period = self.hierarchy.periods[k]
        count = min(self.hierarchy.levels[k].predictor.context - 1, len(self.steps) // period)
        first = len(self.steps) - count * period
        actions = [self._action(k, first + i * period) for i in range(count)]
        latents = [self._encoded(first + i * period)[k] for i in range(count)]
        none = latent.new_zeros(len(latent), 0, self.hierarchy.levels[k].action_encoder.dim)
        return torch.stack([*latents, latent], 1), torch.stack(actions, 1) if actions else none

    def _encoded(self, step: int) -> list[Tensor]:
        """Latents of every level; encoded once, however many plans look back at the step."""
        if not self.steps[step].latents:
            self.steps[step].latents = self.encode(self.steps[step].observation)
        return self.steps[step].latents

    def _action(self, k: int, step: int) -> Tensor:
        """The action of level k that began at that step, (B, A)."""
        level = self.hierarchy.levels[k]
        if k == 0:
            below = [self.steps[step + j].action for j in range(level.stride)]
        else:
            below = [self._action(k - 1, step + j * self.hierarchy.periods[k - 1]) for j in range(level.stride)]
        return level.encode_actions(self._encoded(step)[k], torch.stack(below, 1))
