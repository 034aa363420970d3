"""A head that predicts the part of the state that goals are about from a latent.

With it, a goal on a part of the state needs no decoder of observations. The network is fitted after the levels are trained,
so it does not shape the latents. Its linear part starts as the least-squares solution, which is exact where the latent contains
the part itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiwm.data.store import Trajectories
from hiwm.data.views import JoinedColumn
from hiwm.heads.head import Head
from hiwm.heads.optimize import MEASURED, DeviceColumn, FitConfig, FitData
from hiwm.levels.networks import mlp
from hiwm.levels.parts import Predictor

LINEAR_ROWS = 50_000  # largest number of rows for least squares
SHUFFLED_ROWS = 1_000_000  # largest number of rows that are shuffled to draw those


class GoalConfig(FitConfig):
    """The part of the state that goals are about, and size and training of its readout.

    Args:
        columns: dataset columns that a goal specifies; if empty, a goal is a whole observation, compared in latent space.
    """

    section: ClassVar[str] = "goal"
    columns: list[str]


class StateReadout(Head):
    """g = mean + std * (W z + b + MLP(z)): a part of the state, predicted from a latent.

    Args:
        dim_latent: size D of the latent.
        dim: size G of the part.
        width: units of a hidden layer.
        depth: hidden layers.

    Attributes:
        mean, std: mean and standard deviation of the part in the data, (G,).
        error: root mean square error on held-out episodes, in the part's own units, (G,).
        prediction_error: the same for latents that the level predicts one step ahead from real actions, (G,). It measures
            how accurate the end of the level's plans is.
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
        """Predict the part, (..., D) -> (..., G)."""
        return self.mean + self.std * self.standardized(latent)

    def standardized(self, latent: Tensor) -> Tensor:
        """Predict the part in standard deviations from its mean, (..., D) -> (..., G)."""
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


def goal_part(dataset: Trajectories, columns: Sequence[str]) -> JoinedColumn:
    """Join the columns that goals are about, (N, G)."""
    return JoinedColumn([dataset.column(name) for name in columns])


def fit_state_readout(data: FitData, predictor: Predictor, period: int, part: Any, config: GoalConfig) -> StateReadout:
    """Learn to predict the part of the state from a level's latents.

    Args:
        data: latents and actions of the level.
        predictor: the level's predictor, whose prediction error is measured too.
        period: environment steps (rows) in one step of the level.
        part: values of the part, (N, G), row by row; an array or a column.
        config: size and training of the network.
    """
    latent, target = data.latent, DeviceColumn(part, data.device)
    readout = data.new(StateReadout, config, dim=target.shape[1])
    rows = data.rows(data.training)
    if len(rows) > SHUFFLED_ROWS:
        some = data.draw(rows, LINEAR_ROWS)
    else:
        some = rows[torch.randperm(len(rows), generator=data.generator, device=data.device)[:LINEAR_ROWS]]
    readout.fit_linear(latent[some], target[some])

    def loss(rows: Tensor) -> Tensor:
        return F.smooth_l1_loss(readout.standardized(latent[rows]), (target[rows] - readout.mean) / readout.std)

    data.minimize(loss, readout, rows, config, "state readout")
    _measure_errors(readout, data, predictor, period, target)
    return readout


def _measure_errors(
    readout: StateReadout, data: FitData, predictor: Predictor, period: int, target: DeviceColumn
) -> None:
    """Set `error` and `prediction_error` from held-out episodes; target: (N, G), row by row."""
    rows = data.rows(data.held_out).spread(MEASURED)
    readout.error.copy_((readout(data.latent[rows]) - target[rows]).square().mean(0).sqrt())
    context = predictor.context
    first = data.rows(data.held_out, context * period)
    if not len(first):  # no held-out episode is long enough
        readout.prediction_error.copy_(readout.error)
        return
    action = data.column("action")
    rows = first.spread(MEASURED).unsqueeze(1) + period * torch.arange(context, device=data.device)
    with torch.no_grad():
        state = predictor.remember(data.latent[rows], action[rows[:, :-1]])
        predicted, _ = predictor.step(state, action[rows[:, -1]])
    error = readout(predicted) - target[rows[:, -1] + period]
    readout.prediction_error.copy_(error.square().mean(0).sqrt())
