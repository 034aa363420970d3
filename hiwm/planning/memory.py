"""What the agent saw and did, as each level sees it: what predictors with memory begin their rollouts from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hiwm.hierarchy import Hierarchy, Inputs


@dataclass
class Step:
    """One environment step of B episodes.

    Args:
        observation: what was seen, each input (B, ...).
        action: what was done, (B, A).
        latents: of every level, (B, D) each; none until they are asked for.
    """

    observation: Inputs
    action: Tensor
    latents: list[Tensor] = field(default_factory=list)

    def keep(self, rows: Tensor) -> Step:
        """The same for some of the episodes."""
        seen = {name: x[rows] for name, x in self.observation.items()}
        return Step(seen, self.action[rows], [latent[rows] for latent in self.latents])


class Memory:
    """The last environment steps of a batch of episodes that run in step.

    Args:
        hierarchy: whose levels look back; nothing is kept if no predictor has a context of more than one latent.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.hierarchy = hierarchy
        reach = [
            (level.predictor.context - 1) * p for level, p in zip(hierarchy.levels, hierarchy.periods, strict=True)
        ]
        self.length = max(reach)
        self.steps: list[Step] = []  # oldest first

    def append(self, observation: Inputs, action: Tensor) -> None:
        """An environment step: what was seen, each input (B, ...), and done, (B, A)."""
        if self.length:
            self.steps = [*self.steps, Step(observation, action)][-self.length :]

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the environments only."""
        self.steps = [step.keep(rows) for step in self.steps]

    def context(self, k: int, latent: Tensor) -> tuple[Tensor, Tensor, int]:
        """What level k begins a rollout from.

        Args:
            k: the level.
            latent: where it is now, (B, D).

        Returns:
            Its last latents (B, c, D), as many as there are of the predictor's context, the present one last; the actions
            between them (B, c-1, A); encoder passes this took.
        """
        period = self.hierarchy.periods[k]
        count = min(self.hierarchy.levels[k].predictor.context - 1, len(self.steps) // period)
        first = len(self.steps) - count * period
        before = sum(bool(step.latents) for step in self.steps)
        actions = [self._action(k, first + i * period) for i in range(count)]
        latents = [self._encoded(first + i * period)[k] for i in range(count)]
        none = latent.new_zeros(len(latent), 0, self.hierarchy.levels[k].action_encoder.dim)
        passes = (sum(bool(step.latents) for step in self.steps) - before) * len(self.hierarchy)
        return torch.stack([*latents, latent], 1), torch.stack(actions, 1) if actions else none, passes

    def _encoded(self, step: int) -> list[Tensor]:
        """Of every level; once, however often plans look back at it."""
        if not self.steps[step].latents:
            self.steps[step].latents = self.hierarchy.encode(self.steps[step].observation)
        return self.steps[step].latents

    def _action(self, k: int, step: int) -> Tensor:
        """The (macro-)action of level k that was done from that step on, (B, A)."""
        level = self.hierarchy.levels[k]
        if k == 0:
            below = [self.steps[step + j].action for j in range(level.stride)]
        else:
            below = [self._action(k - 1, step + j * self.hierarchy.periods[k - 1]) for j in range(level.stride)]
        return level.encode_actions(self._encoded(step)[k], torch.stack(below, 1))
