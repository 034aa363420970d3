"""Which macro-actions of a level occur in a state, and how likely each is.

SIGReg makes macro-actions as a whole N(0, I), and nearly independent of the state; nearly is not enough. Between
what the data did with one object and with another lie macro-actions that it never did, and there a predictor moves both at
once. A search finds those. So two small networks learn, after the levels, what is real:

- a flow maps noise to macro-actions of a state: with the proposal `prior` a search chooses the noise. Conditional flow
  matching (Lipman et al. 2023, arXiv 2210.02747, with straight paths), integrated in two midpoint steps; as many passes
  in Euler steps would shrink N(0, I) to a deviation of 0.72.
- a critic tells real macro-actions from made-up ones, by where the level's predictor says that they lead: noise-contrastive
  estimation (Gutmann and Hyvaerinen 2010). A flow is continuous, so it cannot leave out what lies between two modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from hiwm.checks import at_least
from hiwm.data.store import Trajectories
from hiwm.levels.level import Level
from hiwm.levels.networks import mlp
from hiwm.levels.parts import Predictor
from hiwm.planning.fitting import minimize

STEPS = 2  # of the midpoint rule
FLOWN = 0.75  # share of the made-up macro-actions that the flow makes, the rest is Gaussian
WIDER = 1.25  # deviation of the Gaussian ones: a search may try more than N(0, I)


@dataclass(frozen=True)
class PriorConfig:
    """What is learned of which macro-actions occur.

    Args:
        levels: those that learn a prior, from 1 up.
        width: units a hidden layer of both networks.
        depth: their hidden layers.
        steps: optimiser steps of each.
        batch: macro-actions in a step.
        learning_rate: peak; a one-cycle schedule.
    """

    levels: Sequence[int] = ()
    width: int = 256
    depth: int = 3
    steps: int = 4000
    batch: int = 1024
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        at_least("prior.", 1, width=self.width, depth=self.depth, steps=self.steps, batch=self.batch)
        at_least("prior.", 0, learning_rate=self.learning_rate)

    def check(self, num_levels: int) -> None:
        """Raise a ValueError when a stack of `num_levels` has no such levels."""
        if wrong := [k for k in self.levels if not 0 < k < num_levels]:
            raise ValueError(
                f"prior.levels holds {wrong[0]}; allowed: levels with macro-actions, above 0 and below {num_levels}"
            )


class MacroPrior(nn.Module):
    """Flow and critic of one level.

    Args:
        dim_latent: size D of its latent.
        dim_action: size A of its macro-actions.
        width: units a hidden layer.
        depth: hidden layers.

    Attributes:
        scale: of the latent's change in one step, (D,), the predictor's.
        told: share of held-out macro-actions that the critic tells from Gaussian and from flown ones of the same state, with
            a real and a made-up one beside each other, (2,): 0.5 would be a prior that needs no learning.
    """

    scale: Tensor
    told: Tensor
    #: network passes to make a macro-action and to judge it
    passes = 2 * STEPS + 1

    def __init__(self, *, dim_latent: int, dim_action: int, width: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.flow = mlp(dim_latent + dim_action + 1, width, depth, dim_action)
        self.critic = mlp(2 * dim_latent + dim_action, width, depth, 1)
        self.register_buffer("scale", torch.ones(dim_latent))
        self.register_buffer("told", torch.ones(2))

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

    def logit(self, latent: Tensor, action: Tensor, then: Tensor) -> Tensor:
        """Of going from a latent by a macro-action to where the predictor leads: log p(real) / p(made up), (...)."""
        return self.critic(torch.cat([latent, action, (then - latent) / self.scale], -1)).squeeze(-1)

    def unlikely(self, latent: Tensor, action: Tensor, then: Tensor) -> Tensor:
        """-log p(real), of a critic that saw as many real as made-up ones; arguments as in `logit`, (...)."""
        return F.softplus(-self.logit(latent, action, then))

    def rollout(self, predictor: Predictor, latent: Tensor, carried: object, noise: Tensor) -> Rollout:
        """Follow the macro-actions that noise stands for where each step has led.

        Args:
            predictor: of the level.
            latent: (B, D).
            carried: what the predictor carries along there.
            noise: (B, H, A).
        """
        actions, latents, unlikely, variances = [], [], [], []
        for chosen in noise.unbind(1):
            action = self(latent, chosen)
            then, variance, carried = predictor.step_spread(carried, action)
            actions.append(action)
            latents.append(then)
            unlikely.append(self.unlikely(latent, action, then))
            variances += [] if variance is None else [variance]
            latent = then
        return Rollout(
            torch.stack(actions, 1),
            torch.stack(latents, 1),
            torch.stack(variances, 1) if variances else None,
            torch.stack(unlikely, 1),
        )

    def save(self, path: Path) -> None:
        """One safetensors file."""
        save_file(self.state_dict() | {"depth": torch.tensor(self.depth)}, path)

    @staticmethod
    def load(path: Path, device: str = "cpu") -> MacroPrior:
        """What `save` wrote."""
        tensors = load_file(path, device=device)
        width, dim_latent = tensors["flow.0.weight"].shape[0], len(tensors["scale"])
        dim_action = tensors["flow.0.weight"].shape[1] - dim_latent - 1
        prior = MacroPrior(dim_latent=dim_latent, dim_action=dim_action, width=width, depth=int(tensors.pop("depth")))
        prior.load_state_dict(tensors)
        return prior.to(device).eval().requires_grad_(False)


@dataclass(frozen=True)
class Rollout:
    """Where macro-actions lead, step by step.

    Args:
        actions: the macro-actions, (B, H, A).
        latents: after each, (B, H, D).
        variance: among the members of an ensemble, (B, H, D); None for other predictors.
        unlikely: -log p(real) of each step, (B, H); None without a prior.
    """

    actions: Tensor
    latents: Tensor
    variance: Tensor | None
    unlikely: Tensor | None = None


def fit_prior(
    level: Level,
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
        level: whose macro-actions; its predictor says where they lead.
        latents: its cache, columns `latent` and `action`.
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
    prior.to(device).scale.copy_(level.predictor.scale)
    starts = torch.from_numpy(seen.starts(period))
    if not len(starts):
        raise ValueError(f"{latents.path}: no episode holds an action of {period} steps and the row it leads to")
    generator = torch.Generator().manual_seed(seed)

    def draw() -> tuple[Tensor, Tensor]:
        rows = starts[torch.randint(len(starts), (config.batch,), generator=generator)].to(device)
        return latent[rows], action[rows]

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(device)

    def flow_loss() -> Tensor:
        here, real = draw()
        start, time = noise(real), torch.rand(len(real), 1, generator=generator).to(device)
        return F.mse_loss(prior.velocity(here, (1 - time) * start + time * real, time), real - start)

    def critic_loss() -> Tensor:
        here, real = draw()
        made = WIDER * noise(real)
        flown = round(FLOWN * len(made))
        with torch.no_grad():
            made[:flown] = prior(here[:flown], made[:flown])
            then, elsewhere = level.predict(here, real), level.predict(here, made)
        return F.softplus(-prior.logit(here, real, then)).mean() + F.softplus(prior.logit(here, made, elsewhere)).mean()

    minimize(flow_loss, prior.flow, config.steps, config.learning_rate, "prior")
    minimize(critic_loss, prior.critic, config.steps, config.learning_rate, "critic")
    prior.eval()
    unseen = torch.from_numpy(held_out.starts(period)).to(device)
    if len(unseen):
        with torch.no_grad():
            here, real = latent[unseen], action[unseen]
            gaussian, flown = noise(real), prior(here, noise(real))
            logit = prior.logit(here, real, level.predict(here, real))
            made_up = [prior.logit(here, made, level.predict(here, made)) for made in (gaussian, flown)]
            prior.told.copy_(torch.stack([(logit > other).float().mean() for other in made_up]))
    return prior
