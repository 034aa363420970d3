"""Real macro-actions of a level: what actions there are, and which sequences of them the data went through.

A search that may try any macro-action asks the predictor about actions that were never seen. The statistics of recent
real ones say where to look instead, and a bank of real sequences which of them lead on from a state like this one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from hiwm.checks import at_least
from hiwm.data.store import Trajectories
from hiwm.tensors import load_tensors

QUANTILES = (0.02, 0.98)


@dataclass(frozen=True)
class MacroConfig:
    """What is kept of a level's real actions.

    Args:
        queue: most recent actions, the last of the dataset, whose statistics are kept.
        bank: real sequences, drawn from the whole dataset.
        length: actions of a sequence; fewer where its episode ends.
    """

    queue: int = 50_000
    bank: int = 2_000
    length: int = 20

    def __post_init__(self) -> None:
        at_least("macros.", 2, queue=self.queue)
        at_least("macros.", 1, bank=self.bank, length=self.length)


@dataclass(frozen=True)
class MacroActions:
    """Real actions of one level; at level 0 they are chunks of primitive actions. N is the size of the bank.

    Args:
        mean, std: of the queue, (A,).
        low, high: 2 % and 98 % quantiles of the queue, (A,).
        start: latents the sequences start from, (N, D).
        actions: the sequences, one period of the level between two actions, (N, L, A); zeros after `steps`.
        steps: real actions in each, (N,).
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    start: Tensor
    actions: Tensor
    steps: Tensor

    @property
    def longest(self) -> int:
        """Actions of the longest sequence."""
        return self.actions.shape[1]

    def nearest(self, latent: Tensor, number: int, horizon: int) -> Tensor:
        """Sequences that start nearest to each latent, of those at least `horizon` long.

        Args:
            latent: (B, D).
            number: how many n; all there are if they are fewer.
            horizon: actions H of a sequence.

        Returns:
            Their first `horizon` actions, nearest first, (B, n, H, A).
        """
        rows = (self.steps >= horizon).nonzero().squeeze(1)
        distance = torch.cdist(latent, self.start[rows])
        near = distance.topk(min(number, len(rows)), dim=1, largest=False).indices
        return self.actions[rows[near], :horizon]

    def to(self, device: torch.device) -> MacroActions:
        """The same there."""
        return MacroActions(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def save(self, path: Path) -> None:
        """One safetensors file."""
        save_file({field.name: getattr(self, field.name).contiguous() for field in fields(self)}, path)

    @staticmethod
    def load(path: Path, device: str = "cpu") -> MacroActions:
        """What `save` wrote."""
        return MacroActions(**load_tensors(path, device=device))


def build_macros(latents: Trajectories, period: int, config: MacroConfig, seed: int) -> MacroActions:
    """Collect the real actions of a level.

    Args:
        latents: the level's cache, columns `latent` and `action`; an episode's last `period` rows hold no action.
        period: environment steps of one action.
        config: how many.
        seed: of the draws.
    """
    latent, action = latents.column("latent"), latents.column("action")
    valid = np.maximum(latents.ep_len - period, 0)
    if not valid.any():
        raise ValueError(f"{latents.path}: no episode holds an action of {period} steps and the row it leads to")
    rows = latents.starts(period)
    left = np.concatenate([n - np.arange(n) for n in valid])  # valid rows from each on, itself included
    queue = np.asarray(action[rows[-config.queue :]], np.float64)
    low, high = np.quantile(queue, QUANTILES, axis=0)
    drawn = np.sort(np.random.default_rng(seed).choice(len(rows), min(config.bank, len(rows)), replace=False))
    steps = np.minimum(-(-left[drawn] // period), config.length)
    following = np.arange(steps.max())
    real = following < steps[:, None]
    actions = action[rows[drawn][:, None] + np.where(real, following * period, 0)] * real[..., None]
    arrays = (queue.mean(0), queue.std(0), low, high, latent[rows[drawn]], actions)
    return MacroActions(*(torch.tensor(x, dtype=torch.float32) for x in arrays), steps=torch.tensor(steps))
