"""The random numbers of a batch of episodes, a stream for each episode, so that batching changes none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


class EpisodeNoise:
    """One generator per episode. What an episode draws depends on its own seed and draws alone.

    Args:
        seeds: of the B episodes.
        device: where the numbers are drawn.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.generators = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

    @staticmethod
    def of_episodes(seed: int, episodes: Sequence[int], device: torch.device | str = "cpu") -> EpisodeNoise:
        """The noise of numbered episodes; the seed of each depends on (`seed`, number) alone."""
        drawn = [np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] for number in episodes]
        return EpisodeNoise([int(number >> np.uint64(1)) for number in drawn], device)

    def select(self, rows: Tensor) -> EpisodeNoise:
        """The same streams for some of the episodes, given as indices or as a mask, (B,)."""
        found = EpisodeNoise([], self.device)
        found.generators = [self.generators[i] for i in torch.arange(len(self.generators))[rows.cpu()].tolist()]
        return found

    def normal(self, shape: Sequence[int]) -> Tensor:
        """N(0, 1), of a shape that begins with B."""
        return self._draw(shape, torch.Tensor.normal_)

    def exponential(self, shape: Sequence[int]) -> Tensor:
        """Exponential with rate 1, of a shape that begins with B."""
        return self._draw(shape, torch.Tensor.exponential_)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform in [0, 1), of a shape that begins with B."""
        return self._draw(shape, torch.Tensor.uniform_)

    def _draw(self, shape: Sequence[int], fill: Callable[..., Tensor]) -> Tensor:
        found = torch.empty(tuple(shape), device=self.device)
        for row, generator in zip(found.unbind(0), self.generators, strict=True):
            fill(row, generator=generator)
        return found
