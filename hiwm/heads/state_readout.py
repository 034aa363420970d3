"""Reads the part of the state that goals are about from a latent.

A goal on a part of the state needs no decoder of observations, because a small network reads that part from each level's
latent. The network is fitted after the levels are trained. It therefore describes the latents and does not shape them. Its
linear half starts as the least-squares solution, which makes no error where the latent contains the part itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hiwm.data.store import Trajectories
from hiwm.heads.head import Head
from hiwm.heads.optimize import FitConfig, minimize
from hiwm.levels.networks import mlp
from hiwm.levels.parts import Predictor

LINEAR_ROWS = 50_000  # most rows that least squares uses


class GoalConfig(FitConfig):
    """What goals are about, and how its readout learns.

    Args:
        columns: dataset columns that a goal sets; empty: a goal is a whole observation, compared as latents.
    """

    section: ClassVar[str] = "goal"
    columns: list[str] = Field(default_factory=list)
    depth: int = Field(2, ge=1)


class StateReadout(Head):
    """g = mean + std * (W z + b + MLP(z)): a part of the state from a level's latent.

    Args:
        dim_latent: size D of the latent.
        dim: size G of the part.
        width: units of a hidden layer.
        depth: hidden layers.

    Attributes:
        mean, std: of the part in the data, (G,).
        error: root mean square error on held-out episodes, in the part's own units, (G,).
        prediction_error: the same for latents that the level predicts one step ahead from real actions, (G,). It tells how
            accurately the level knows where its plans end.
    """

    mean: Tensor
    std: Tensor
    error: Tensor
    prediction_error: Tensor

    def __init__(self, *, dim_latent: int, dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim_latent, dim)
        self.net = mlp(dim_latent, width, depth, dim)
        for name in ("mean", "std", "error", "prediction_error"):
            self.register_buffer(name, torch.ones(dim))

    def forward(self, latent: Tensor) -> Tensor:
        """(..., D) -> (..., G)."""
        return self.mean + self.std * self.standardized(latent)

    def standardized(self, latent: Tensor) -> Tensor:
        """Read the part in standard deviations from its mean, (..., D) -> (..., G)."""
        return self.linear(latent) + self.net(latent)

    def fit_linear(self, latent: Tensor, part: Tensor) -> None:
        """Set mean, std and the least-squares solution from latents (N, D) and parts (N, G); the MLP then adds zero."""
        self.mean.copy_(part.mean(0))
        self.std.copy_(part.std(0).clamp_min(1e-6))
        # double precision and "gelsd", because dimensions may be constant or repeated
        known = torch.cat([latent, torch.ones_like(latent[:, :1])], 1).double().cpu()
        wanted = ((part - self.mean) / self.std).double().cpu()
        solved = torch.linalg.lstsq(known, wanted, driver="gelsd").solution.to(self.linear.weight)
        last = self.net[-1]
        assert isinstance(last, nn.Linear), "an MLP ends in a linear layer"
        with torch.no_grad():
            self.linear.weight.copy_(solved[:-1].T)
            self.linear.bias.copy_(solved[-1])
            last.weight.zero_()
            last.bias.zero_()


def goal_part(dataset: Trajectories, columns: Sequence[str]) -> np.ndarray:
    """Join the columns that goals are about, (N, G)."""
    parts = [np.asarray(dataset.column(name), np.float32) for name in columns]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def fit_state_readout(
    predictor: Predictor,
    latents: Trajectories,
    period: int,
    part: np.ndarray,
    config: GoalConfig,
    *,
    validation: float,
    seed: int,
    device: torch.device,
) -> StateReadout:
    """Learn to read the part of the state from a level's cached latents.

    Args:
        predictor: of the level; the error of its predictions is measured too.
        latents: the level's cache, columns `latent` (N, D) and `action` (N, A).
        period: environment steps (rows) in one step of the level.
        part: what to read, (N, G), row by row.
        config: how.
        validation: share of the episodes held out, on which the error is measured.
        seed: of initial weights and draws.
        device: where to train.
    """
    torch.manual_seed(seed)
    seen, held_out = latents.split(validation)
    column = torch.from_numpy(np.array(latents.column("latent"))).to(device)
    target = torch.from_numpy(part).to(device)
    rows = torch.from_numpy(seen.rows).to(device)
    readout = StateReadout(dim_latent=column.shape[1], dim=target.shape[1], width=config.width, depth=config.depth)
    readout.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    some = rows[torch.randperm(len(rows), generator=generator, device=device)[:LINEAR_ROWS]]
    readout.fit_linear(column[some], target[some])

    def loss() -> Tensor:
        drawn = rows[torch.randint(len(rows), (config.batch,), generator=generator, device=device)]
        return F.smooth_l1_loss(readout.standardized(column[drawn]), (target[drawn] - readout.mean) / readout.std)

    minimize(loss, readout, config.steps, config.learning_rate, "state readout")
    unseen = torch.from_numpy(held_out.rows).to(device)
    readout.error.copy_((readout(column[unseen]) - target[unseen]).square().mean(0).sqrt())
    context = predictor.context
    first = torch.from_numpy(held_out.starts(context * period)).to(device)
    if len(first):
        action = torch.from_numpy(np.array(latents.column("action"))).to(device)
        rows = first.unsqueeze(1) + period * torch.arange(context, device=device)
        with torch.no_grad():
            then, _ = predictor.step(predictor.remember(column[rows], action[rows[:, :-1]]), action[rows[:, -1]])
        error = readout(then) - target[rows[:, -1] + period]
        readout.prediction_error.copy_(error.square().mean(0).sqrt())
    else:  # no held-out episode is long enough
        readout.prediction_error.copy_(readout.error)
    return readout
