"""Which macro-actions of a level occur in a state.

SIGReg makes macro-actions as a whole N(0, I), and nearly independent of the state; nearly is not enough. With several
objects, some of N(0, I) belongs to macro-actions that the data never shows, in which a predictor moves two objects at once. A
search finds those. So a flow learns, after the levels, to turn noise into macro-actions of a state, and with the proposal
`prior` a search chooses the noise: conditional flow matching (Lipman et al. 2023, arXiv 2210.02747, equation 9, with straight
paths), integrated in two midpoint steps; as many passes in Euler steps would shrink N(0, I) to a deviation of 0.72.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from hiwm.data.store import Trajectories
from hiwm.levels.networks import mlp
from hiwm.planning.fitting import FitConfig, minimize
from hiwm.tensors import load_tensors

STEPS = 2  # of the midpoint rule
# Held-out loss, a dimension, of the best flow to N(0, I) whatever the state: of E[(m - x)^2 | (1 - t) x + t m] over times t,
# the integral of 1 / ((1 - t)^2 + t^2).
UNINFORMED = math.pi / 2


@dataclass(frozen=True)
class PriorConfig(FitConfig):
    """What is learned of which macro-actions occur.

    Args:
        levels: those that learn a prior, from 1 up.
    """

    section = "prior"
    levels: Sequence[int] = ()
    steps: int = 4000

    def check(self, num_levels: int) -> None:
        """Raise a ValueError when a stack of `num_levels` has no such levels."""
        if wrong := [k for k in self.levels if not 0 < k < num_levels]:
            raise ValueError(
                f"prior.levels holds {wrong[0]}; allowed: levels with macro-actions, above 0 and below {num_levels}"
            )


class MacroPrior(nn.Module):
    """The flow of one level.

    Args:
        dim_latent: size D of its latent.
        dim_action: size A of its macro-actions.
        width: units a hidden layer.
        depth: hidden layers.

    Attributes:
        relative_loss: its loss on held-out episodes over that of N(0, I) whatever the state, a number: 1 where there was nothing to
            learn; not a number where no episode was long enough to tell.
    """

    relative_loss: Tensor
    #: network passes to make a macro-action
    passes = 2 * STEPS

    def __init__(self, *, dim_latent: int, dim_action: int, width: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.flow = mlp(dim_latent + dim_action + 1, width, depth, dim_action)
        self.register_buffer("relative_loss", torch.tensor(torch.nan))

    def velocity(self, latent: Tensor, point: Tensor, time: Tensor) -> Tensor:
        """Of a point on its way from noise (time 0) to a macro-action (time 1): (..., D), (..., A), (..., 1) -> (..., A)."""
        return self.flow(torch.cat([latent, point, time], -1))

    def forward(self, latent: Tensor, noise: Tensor) -> Tensor:
        """Noise as macro-actions that occur in the state: (..., D), (..., A) -> (..., A)."""
        point = noise
        for step in range(STEPS):
            start = noise.new_full((*noise.shape[:-1], 1), step / STEPS)
            middle = point + self.velocity(latent, point, start) / (2 * STEPS)
            point = point + self.velocity(latent, middle, start + 1 / (2 * STEPS)) / STEPS
        return point

    def save(self, path: Path) -> None:
        """One safetensors file."""
        save_file(self.state_dict() | {"depth": torch.tensor(self.depth)}, path)

    @staticmethod
    def load(path: Path, device: str = "cpu") -> MacroPrior:
        """What `save` wrote."""
        tensors = load_tensors(path, device=device)
        depth, (width, dim_in) = int(tensors.pop("depth")), tensors["flow.0.weight"].shape
        dim_action = len(tensors[f"flow.{3 * depth}.bias"])
        prior = MacroPrior(dim_latent=dim_in - dim_action - 1, dim_action=dim_action, width=width, depth=depth)
        prior.load_state_dict(tensors)
        return prior.to(device).eval().requires_grad_(False)


def fit_prior(
    latents: Trajectories,
    period: int,
    config: PriorConfig,
    *,
    validation: float,
    seed: int,
    device: torch.device,
) -> MacroPrior:
    """Learn which macro-actions occur in a state.

    Args:
        latents: of a level, columns `latent` and `action`.
        period: environment steps, which are rows, in one of its steps.
        config: how.
        validation: share of the episodes held out.
        seed: of initial weights and draws.
        device: where to train.
    """
    torch.manual_seed(seed)
    seen, held_out = latents.split(validation)
    latent, action = (torch.from_numpy(np.array(latents.column(name))).to(device) for name in ("latent", "action"))
    prior = MacroPrior(dim_latent=latent.shape[1], dim_action=action.shape[1], width=config.width, depth=config.depth)
    prior.to(device)
    starts = torch.from_numpy(seen.starts(period))
    if not len(starts):
        raise ValueError(f"{latents.path}: no episode holds an action of {period} steps and the row it leads to")
    generator = torch.Generator().manual_seed(seed)

    def flow_loss(rows: Tensor) -> Tensor:
        here, real = latent[rows.to(device)], action[rows.to(device)]
        start = torch.randn(real.shape, generator=generator).to(device)
        time = torch.rand(len(real), 1, generator=generator).to(device)
        return F.mse_loss(prior.velocity(here, (1 - time) * start + time * real, time), real - start)

    def loss() -> Tensor:
        return flow_loss(starts[torch.randint(len(starts), (config.batch,), generator=generator)])

    minimize(loss, prior, config.steps, config.learning_rate, "prior")
    unseen = torch.from_numpy(held_out.starts(period))
    if len(unseen):
        prior.relative_loss.copy_(flow_loss(unseen) / UNINFORMED)
    return prior
