"""A bank of real action sequences of a level, and quantiles of the actions.

An unrestricted search evaluates macro-actions on which the predictor was never trained. The bank holds sequences from the data,
and a search can start from those that began in similar states. The quantiles bound a search around such a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hiwm.data.columns import read_rows, release
from hiwm.data.store import Trajectories
from hiwm.heads.head import Head
from hiwm.heads.optimize import check_length
from hiwm.levels.distance import distance
from hiwm.levels.level import Level
from hiwm.settings import Settings

QUANTILES = (0.02, 0.98)
RECENT = 50_000  # number of actions, the last ones of the dataset, from which the quantiles are computed


class ActionBankConfig(Settings):
    """Size of the bank of real actions of a level.

    Args:
        size: number of sequences, drawn from the whole dataset.
        length: actions of a sequence; fewer if its episode ends earlier.
    """

    section: ClassVar[str] = "action_bank"
    size: int = Field(ge=1)
    length: int = Field(ge=1)


class ActionBank(Head):
    """Real actions of one level; at level 0 they are chunks of primitive actions. The bank has N sequences.

    Args:
        low, high: 2 % and 98 % quantiles of recent actions, (A,).
        start: latents from which the sequences start, (N, D).
        actions: sequences of actions, one period of the level apart, (N, L, A); zeros after `steps`.
        steps: number of real actions in each sequence, (N,).
    """

    low: Tensor
    high: Tensor
    start: Tensor
    actions: Tensor
    steps: Tensor

    def __init__(self, *, low: Tensor, high: Tensor, start: Tensor, actions: Tensor, steps: Tensor) -> None:
        super().__init__()
        tensors = {"low": low, "high": high, "start": start, "actions": actions, "steps": steps}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self._long_enough: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def longest(self) -> int:
        """Actions of the longest sequence."""
        return self.actions.shape[1]

    def nearest(
        self, latent: Tensor, number: int, horizon: int, read: Callable[[Tensor], Tensor] = lambda latent: latent
    ) -> Tensor:
        """Find the sequences of at least `horizon` actions that start nearest to each latent.

        Args:
            latent: (B, D).
            number: number n of sequences; all of them if there are fewer.
            horizon: actions H of a sequence.
            read: what of latents (N, D) is compared, (N, X); all of them by default.

        Returns:
            Their first `horizon` actions, nearest first, (B, n, H, A).
        """
        rows = self._rows(horizon)
        distance = torch.cdist(read(latent), read(self.start[rows]))
        near = distance.topk(min(number, len(rows)), dim=1, largest=False).indices
        return self.actions[rows[near], :horizon]

    def _rows(self, horizon: int) -> Tensor:
        """Indices of the sequences of at least `horizon` actions, (N,); computed once, because that synchronises a GPU."""
        key = horizon, self.steps.device
        if key not in self._long_enough:
            self._long_enough[key] = (self.steps >= horizon).nonzero().squeeze(1)
        return self._long_enough[key]


@torch.no_grad()
def mean_step(level: Level, bank: ActionBank, p: int) -> Tensor:
    """Mean `distance` over one step of the trained level from the real latents by the real actions of the bank, ()."""
    return distance(level.predict(bank.start, bank.actions[:, 0]), bank.start, p).mean()


def build_action_bank(latents: Trajectories, period: int, config: ActionBankConfig, seed: int) -> ActionBank:
    """Collect real actions of a level.

    Args:
        latents: cache of the level, columns `latent` and `action`; the last `period` rows of an episode hold no action.
        period: environment steps of one action.
        config: size of the bank.
        seed: seed of the draws.
    """
    latent, action = latents.column("latent"), latents.column("action")
    check_length(latents, period)
    rows = latents.starts(period)
    low, high = np.quantile(np.asarray(action[rows[-RECENT:]], np.float64), QUANTILES, axis=0)
    release(action)
    drawn = np.sort(np.random.default_rng(seed).choice(len(rows), min(config.size, len(rows)), replace=False))
    ends = np.cumsum(latents.starts_per_episode(period))
    left = ends[np.searchsorted(ends, drawn, side="right")] - drawn  # rows with an action, to the end of the episode
    steps = np.minimum(-(-left // period), config.length)
    following = np.arange(steps.max())
    real = following < steps[:, None]
    taken = rows[drawn][:, None] + np.where(real, following * period, 0)
    actions = read_rows(action, taken, kept=0) * real[..., None]
    arrays = {"low": low, "high": high, "start": read_rows(latent, rows[drawn], kept=0), "actions": actions}
    tensors = {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}
    return ActionBank(**tensors, steps=torch.tensor(steps))
