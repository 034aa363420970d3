"""Decoding of latents: to the state that they hold or the one with the nearest latent in the data, or to frames by the decoder of a level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hiwm.agent import Agent
from hiwm.data.store import Trajectories
from hiwm.data.views import JoinedColumn
from hiwm.levels.landmarks import nearest
from hiwm.levels.level import Level
from hiwm.levels.regularizers.pixels import PixelPrediction

DRAWN = 64  # numbers of the state that are decoded; maps draw two, and images have many more
BANK = 30_000  # states to choose from
STEPS_AHEAD = (0, 1, 2, 3, 4, 8, 12, 16)  # steps of level 0


class StateDecoder:
    """Decodes a latent to the state that it holds, or else to the state with the nearest latent in a sample of the data, without a trained decoder.

    A latent holds its state where its level and those below keep their inputs (`Encoder.read_inputs`), and these contain the state.

    Args:
        agent: encodes the states.
        dataset: states to choose from.
        state: columns of the true state.
        seed: seed of the sample.
    """

    def __init__(self, agent: Agent, dataset: Trajectories, state: Sequence[str], seed: int = 0) -> None:
        total = dataset.num_steps
        #: rows of the states in the dataset, (M,)
        self.rows = np.sort(np.random.default_rng(seed).choice(total, min(BANK, total), replace=False))
        self.latents = agent.hierarchy.encode_many({name: dataset.column(name) for name in agent.inputs}, self.rows)
        self.states = JoinedColumn([dataset.column(name) for name in state], DRAWN)[self.rows]
        self.hierarchy, self.state = agent.hierarchy, state

    def decode(self, level: int, latent: np.ndarray | Tensor) -> np.ndarray:
        """(N, D of the level) -> states (N, C)."""
        held = self.held(level, latent)
        return self.states[self.nearest(level, latent)[0]] if held is None else held

    def held(self, level: int, latent: np.ndarray | Tensor) -> np.ndarray | None:
        """The states (N, C) that latents (N, D of the level) hold; None if they do not hold them."""
        wanted = torch.as_tensor(latent, dtype=torch.float32, device=self.hierarchy.device)
        inputs = self.hierarchy.read_inputs(level, wanted)
        if inputs is None or not set(self.state) <= set(inputs):
            return None
        return torch.cat([inputs[name].flatten(1) for name in self.state], 1)[:, :DRAWN].cpu().numpy()

    def nearest(self, level: int, latent: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the nearest states to latents (N, D of the level), (N,), and the distances of their latents, (N,)."""
        wanted = torch.as_tensor(latent, dtype=torch.float32)
        distance, index = nearest(wanted, self.latents[level])
        return index.numpy(), distance.numpy()


def states_at(dataset: Trajectories, state: list[str], rows: np.ndarray) -> np.ndarray:
    """True states of some rows, (N, C): the columns side by side."""
    return np.concatenate([np.asarray(dataset.column(name)[rows]).reshape(len(rows), -1) for name in state], 1)


@dataclass(frozen=True)
class Frames:
    """True and decoded frames of N windows, at K moments of each.

    Args:
        ahead: environment steps from the first frame of a window to each moment, (K,).
        trained: training horizon in environment steps.
        true: frames of the data, (N, K, H, W, C).
        encoded: decoded from the frames' own latents, (N, K, H, W, C).
        predicted: decoded from an open-loop rollout of the first latent, (N, K, H, W, C).
    """

    ahead: Sequence[int]
    trained: int
    true: np.ndarray
    encoded: np.ndarray
    predicted: np.ndarray


def frame_decoder(level: Level) -> PixelPrediction | None:
    """The part of a level that decodes latents to frames; None if the level has no such part."""
    return next((part for part in level.regularizers.values() if isinstance(part, PixelPrediction)), None)


@torch.no_grad()
def predicted_frames(agent: Agent, dataset: Trajectories, windows: int = 2, seed: int = 0) -> Frames:
    """Frames of random windows, predicted and decoded by a level 0 that has a `frame_decoder`."""
    level, period = agent.hierarchy.levels[0], agent.hierarchy.periods[0]
    decoder = frame_decoder(level)
    assert decoder is not None
    steps = [n for n in STEPS_AHEAD if n * period < dataset.ep_len.max()]
    length, rng = steps[-1] * period, np.random.default_rng(seed)
    episode = rng.choice(np.flatnonzero(dataset.ep_len > length), windows)
    start = dataset.ep_offset[episode] + (rng.random(windows) * (dataset.ep_len[episode] - length)).astype(np.int64)
    rows = start[:, None] + np.arange(length + 1)  # every row, because every row has an action
    latent = level.encode({name: torch.from_numpy(dataset.column(name)[rows[:, ::period]]) for name in agent.inputs})
    below = torch.from_numpy(dataset.column("action")[rows[:, :-1]]).unflatten(1, (-1, period))
    actions = level.encode_actions(latent[:, :-1], below)
    rolled = torch.cat([latent[:, :1], level.rollout(latent[:, 0], actions)], 1)
    true = dataset.column(decoder.image)[rows[:, ::period]][:, steps]
    brightest = 255.0 if true.dtype == np.uint8 else 1.0

    def show(latent: Tensor) -> np.ndarray:
        frames = level.standardize.undo(decoder.image, decoder.decode(latent[:, steps]))
        return frames.clamp(0, brightest).numpy().astype(true.dtype)

    return Frames([n * period for n in steps], level.horizon * period, true, show(latent), show(rolled))
