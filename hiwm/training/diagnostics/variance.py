"""How much the latent varies, and how much of that lies within episodes."""

from __future__ import annotations

from torch import Tensor

from hiwm.levels.level import Level
from hiwm.levels.output import LevelOutput
from hiwm.training.diagnostics.diagnostic import Diagnostic
from hiwm.training.diagnostics.episodes import EncodedEpisodes

MIN_STD = 0.1
MIN_WITHIN_EPISODE = 0.05  # levels over images that planned well in our experiments had 0.3 to 1


class LatentStd(Diagnostic):
    """Standard deviation of a latent dimension: averaged over the dimensions, or at a metric level their sum, in steps."""

    name = "std"
    label = "latent std"
    format = "{:.2f}"
    description = "Standard deviation of a latent dimension, averaged over the dimensions; at a metric level their sum, which is in steps. Near 0, the latent collapses."

    def __call__(self, level: Level, output: LevelOutput, episodes: EncodedEpisodes) -> float:
        deviation = episodes.rows.std(0)
        return (deviation.sum() if level.metric else deviation.mean()).item()  # a small world is few steps wide

    def alarm(self, value: float) -> str | None:
        if value < MIN_STD:
            return f"the latent's standard deviation is {value:.3f}: it is shrinking to a point"
        return None


class WithinEpisode(Diagnostic):
    """Share of the latent's variance that lies within episodes, over the same share of the inputs, and at most 1.

    For inputs of more than 1024 numbers, such as images, it is the share of the latent alone.
    Where episodes are short or each has a map of its own, little of the inputs' variance lies within them either.
    """

    name = "within_episode"
    label = "within-episode variance"
    format = "{:.2f}"
    description = "Share of the latent's variance within episodes, relative to the same share of the inputs; near 0, the latent encodes only what is constant in an episode."

    def __call__(self, level: Level, output: LevelOutput, episodes: EncodedEpisodes) -> float:
        share = _share(episodes.latent)
        return share if episodes.seen is None else min(share / max(_share(episodes.seen), 1e-6), 1.0)

    def alarm(self, value: float) -> str | None:
        if value < MIN_WITHIN_EPISODE:
            return f"the within-episode variance is only {value:.1%} of what it could be: the latent encodes only what is constant in an episode"
        return None


def _share(values: Tensor) -> float:
    """Share of the variance of (B, T, D) that lies within its B rows."""
    total = values.flatten(0, 1).var(0).sum().clamp_min(1e-12)
    return (values.var(1).sum(-1).mean() / total).item()
