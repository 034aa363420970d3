"""Learns which macro-actions occur in a state.

SIGReg makes macro-actions as a whole N(0, I) and nearly independent of the state, but only nearly. With several objects, a
part of N(0, I) belongs to macro-actions that the data never shows, for which a predictor moves two objects at once. A search
finds those macro-actions. So a flow learns, after the levels, to turn noise into macro-actions of a state. With the proposal
`flow` a search chooses the noise. The loss is conditional flow matching (Lipman et al. 2023, arXiv 2210.02747, equation 9,
with straight paths). Two midpoint steps integrate the flow. Euler steps with as many passes would shrink N(0, I) to a standard
deviation of 0.72.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from hiwm.data.store import Trajectories
from hiwm.heads.head import Head
from hiwm.heads.optimize import FitConfig, minimize
from hiwm.levels.networks import mlp

STEPS = 2  # of the midpoint rule
# Held-out loss per dimension of the best flow to N(0, I) where the state tells nothing: E[(m - x)^2 | (1 - t) x + t m] averaged
# over times t, which is the integral of 1 / ((1 - t)^2 + t^2).
UNINFORMED = math.pi / 2


class ActionPriorConfig(FitConfig):
    """How a level learns which macro-actions occur.

    Args:
        levels: levels that learn it, from 1 up.
    """

    section: ClassVar[str] = "action_prior"
    levels: list[int] = Field(default_factory=list)
    steps: int = Field(4000, ge=1)

    def check(self, num_levels: int) -> None:
        """Raise a ValueError if the hierarchy lacks one of the levels, or if one has no macro-actions."""
        if not all(0 < k < num_levels for k in self.levels):
            raise ValueError(
                f"action_prior.levels is {self.levels}; expected levels from 1 to {num_levels - 1}, which have macro-actions"
            )


class ActionPrior(Head):
    """The flow of one level.

    Args:
        dim_latent: size D of its latent.
        dim_action: size A of its macro-actions.
        width: units of a hidden layer.
        depth: hidden layers.

    Attributes:
        relative_loss: loss on held-out episodes over the loss of N(0, I) in every state, a number. It is 1 where there was
            nothing to learn, and NaN where no held-out episode is long enough.
    """

    relative_loss: Tensor
    #: network passes to make a macro-action
    passes = 2 * STEPS

    def __init__(self, *, dim_latent: int, dim_action: int, width: int, depth: int) -> None:
        super().__init__()
        self.flow = mlp(dim_latent + dim_action + 1, width, depth, dim_action)
        self.register_buffer("relative_loss", torch.tensor(torch.nan))

    def velocity(self, latent: Tensor, point: Tensor, time: Tensor) -> Tensor:
        """Velocity of a point between noise (time 0) and a macro-action (time 1): (..., D), (..., A), (..., 1) -> (..., A)."""
        return self.flow(torch.cat([latent, point, time], -1))

    def forward(self, latent: Tensor, noise: Tensor) -> Tensor:
        """Turn noise into macro-actions that occur in the state: (..., D), (..., A) -> (..., A)."""
        point = noise
        for step in range(STEPS):
            start = noise.new_full((*noise.shape[:-1], 1), step / STEPS)
            middle = point + self.velocity(latent, point, start) / (2 * STEPS)
            point = point + self.velocity(latent, middle, start + 1 / (2 * STEPS)) / STEPS
        return point


def fit_action_prior(
    latents: Trajectories,
    period: int,
    config: ActionPriorConfig,
    *,
    validation: float,
    seed: int,
    device: torch.device,
) -> ActionPrior:
    """Learn which macro-actions occur in a state.

    Args:
        latents: the level's cache, columns `latent` (N, D) and `action` (N, A).
        period: environment steps (rows) in one step of the level.
        config: how.
        validation: share of the episodes held out.
        seed: of initial weights and draws.
        device: where to train.
    """
    torch.manual_seed(seed)
    seen, held_out = latents.split(validation)
    latent, action = (torch.from_numpy(np.array(latents.column(name))).to(device) for name in ("latent", "action"))
    prior = ActionPrior(dim_latent=latent.shape[1], dim_action=action.shape[1], width=config.width, depth=config.depth)
    prior.to(device)
    starts = torch.from_numpy(seen.starts(period)).to(device)
    if not len(starts):
        raise ValueError(f"{latents.path}: no episode holds an action of {period} steps and the row it leads to")
    generator = torch.Generator(device).manual_seed(seed)

    def flow_loss(rows: Tensor) -> Tensor:
        state, real = latent[rows], action[rows]
        noise = torch.randn(real.shape, generator=generator, device=device)
        time = torch.rand(len(real), 1, generator=generator, device=device)
        return F.mse_loss(prior.velocity(state, (1 - time) * noise + time * real, time), real - noise)

    def loss() -> Tensor:
        return flow_loss(starts[torch.randint(len(starts), (config.batch,), generator=generator, device=device)])

    minimize(loss, prior, config.steps, config.learning_rate, "action prior")
    unseen = torch.from_numpy(held_out.starts(period)).to(device)
    if len(unseen):
        prior.relative_loss.copy_(flow_loss(unseen) / UNINFORMED)
    return prior
