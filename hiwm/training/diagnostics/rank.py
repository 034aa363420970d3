"""How many dimensions the latent uses."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.levels.level import Level
from hiwm.levels.output import LevelOutput
from hiwm.training.diagnostics.diagnostic import Diagnostic
from hiwm.training.diagnostics.episodes import EncodedEpisodes, spectrum

MIN_SHARE = 0.1  # levels over images that planned well in our experiments had 0.3 to 1
LINE = 1.1  # rank of inputs that vary in hardly more than one direction, of which no latent can lose one


class EffectiveRank(Diagnostic):
    """Exponential of the entropy of the normalised eigenvalues of the covariance, 1 to D (Roy & Vetterli 2007)."""

    name = "effective_rank"
    label = "effective rank"
    format = "{:.2f}"
    description = "Number of dimensions that the latent uses."

    def __call__(self, level: Level, output: LevelOutput, episodes: EncodedEpisodes) -> float:
        return effective_rank(episodes.spectrum)


class RankShare(Diagnostic):
    """Position of the effective rank between 1 (all latents on a line) and its largest possible value, 0 to 1.

    The largest possible value is D, or the effective rank of the inputs where that is smaller. It is D for inputs of more than 1024 numbers, such as images.
    """

    name = "rank_share"
    label = "rank share"
    format = "{:.2f}"
    description = "Effective rank on a scale from 0 (one direction) to 1 (as many directions as the inputs allow)."

    def __call__(self, level: Level, output: LevelOutput, episodes: EncodedEpisodes) -> float:
        possible = float(episodes.rows.shape[1])
        if (seen := episodes.seen) is not None:
            possible = min(possible, effective_rank(spectrum(seen.flatten(0, 1))))
        if possible < LINE:
            return 1.0
        return min((effective_rank(episodes.spectrum) - 1) / (possible - 1), 1.0)

    def alarm(self, value: float) -> str | None:
        return f"the effective rank is only {value:.0%} of what it could be" if value < MIN_SHARE else None


def effective_rank(spectrum: Tensor) -> float:
    """exp(entropy) of a covariance's eigenvalues (D,): 1 to D."""
    share = spectrum / spectrum.sum().clamp_min(1e-30)
    return torch.exp(torch.special.entr(share).sum()).item()
