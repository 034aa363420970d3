"""Learns which macro-actions occur in a state.

With SIGReg, macro-actions follow N(0, I) over the whole dataset and are nearly, but not fully, independent of the state. With
several objects, some samples of N(0, I) are macro-actions that never occur in the data; the predictor may move two objects at
once for them. A search exploits such errors. Therefore a flow learns, after the levels, to turn noise into macro-actions that occur in a
state. With the proposal `flow`, a search optimises the noise. The loss is conditional flow matching (Lipman et al. 2023, arXiv 2210.02747, equation 9,
with straight paths). Two midpoint steps integrate the flow. Euler steps with the same number of passes would shrink N(0, I) to a standard
deviation of 0.72.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hiwm.heads.head import Head
from hiwm.heads.optimize import MEASURED, FitConfig, FitData
from hiwm.levels.networks import mlp

STEPS = 2  # steps of the midpoint rule
# Held-out loss per dimension of the best flow to N(0, I) if the state carries no information: E[(m - x)^2 | (1 - t) x + t m] averaged
# over times t, which is the integral of 1 / ((1 - t)^2 + t^2).
UNINFORMED = math.pi / 2


class ActionPriorConfig(FitConfig):
    """Size and training of the action prior.

    Args:
        levels: levels with an action prior, from 1 up.
    """

    section: ClassVar[str] = "action_prior"
    levels: list[int]

    def check(self, num_levels: int) -> None:
        """Raise a ValueError if the hierarchy lacks one of the levels, or if one has no macro-actions."""
        if not all(0 < k < num_levels for k in self.levels):
            raise ValueError(
                f"action_prior.levels is {self.levels}; expected levels from 1 to {num_levels - 1}, which have macro-actions"
            )


class ActionPrior(Head):
    """The flow of one level.

    Args:
        dim_latent: size D of the latent.
        dim_action: size A of the macro-action.
        width: units of a hidden layer.
        depth: hidden layers.

    Attributes:
        relative_loss: loss on held-out episodes over the loss of N(0, I) in every state, a number. It is 1 if macro-actions do
            not depend on the state, and NaN if no held-out episode is long enough.
    """

    relative_loss: Tensor
    #: network passes for one macro-action
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


def fit_action_prior(data: FitData, period: int, config: ActionPriorConfig) -> ActionPrior:
    """Learn which macro-actions occur in a state.

    Args:
        data: latents and macro-actions of the level.
        period: environment steps (rows) in one step of the level.
        config: size and training of the network.
    """
    action = data.column("action")
    prior = data.new(ActionPrior, config, dim_action=action.shape[1])

    def loss(rows: Tensor) -> Tensor:
        state, real = data.latent[rows], action[rows]
        noise = torch.randn(real.shape, generator=data.generator, device=data.device)
        time = torch.rand(len(real), 1, generator=data.generator, device=data.device)
        return F.mse_loss(prior.velocity(state, (1 - time) * noise + time * real, time), real - noise)

    data.minimize(loss, prior, data.starts(period), config, "action prior")
    held_out = data.rows(data.held_out, period)
    if len(held_out):
        prior.relative_loss.copy_(loss(held_out.spread(MEASURED)) / UNINFORMED)
    return prior
