"""Latents as states: the state of the data whose latent is nearest."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hiwm.agent import Agent
from hiwm.data.store import Trajectories

BANK = 30_000  # states to choose from


class StateDecoder:
    """Shows where in the world a latent is; needs no decoder, and every answer is a real state.

    Args:
        agent: whose levels.
        dataset: states to choose from.
        state: columns of the true state.
        seed: of the choice of states.
    """

    def __init__(self, agent: Agent, dataset: Trajectories, state: list[str], seed: int = 0) -> None:
        total = dataset.num_steps
        rows = np.sort(np.random.default_rng(seed).choice(total, min(BANK, total), replace=False))
        self.latents = agent.hierarchy.encode_many({name: dataset.column(name)[rows] for name in agent.inputs})
        self.states = states_at(dataset, state, rows)

    def decode(self, level: int, latent: np.ndarray | Tensor) -> np.ndarray:
        """(N, D of the level) -> states (N, C)."""
        wanted = torch.as_tensor(latent, dtype=torch.float32)
        nearest = [torch.cdist(block, self.latents[level]).argmin(1) for block in wanted.split(512)]
        return self.states[torch.cat(nearest).numpy()]


def states_at(dataset: Trajectories, state: list[str], rows: np.ndarray) -> np.ndarray:
    """True states of some rows, columns side by side, (N, C)."""
    return np.concatenate([np.asarray(dataset.column(name)[rows]).reshape(len(rows), -1) for name in state], 1)
