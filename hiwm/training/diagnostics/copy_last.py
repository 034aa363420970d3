"""Whether a level predicts better than the prediction of no change."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hiwm.levels.level import Level
from hiwm.levels.output import LevelOutput
from hiwm.training.diagnostics.diagnostic import Diagnostic
from hiwm.training.diagnostics.episodes import EncodedEpisodes

MAX_RATIO = 0.9  # levels that planned well in our experiments had less than 0.3


class CopyLast(Diagnostic):
    """Error of open-loop predictions over the error of repeating the latent that they start from, the last of the context."""

    name = "copy_last"
    label = "error / copy-last"
    format = "{:.4f}"
    description = (
        "Prediction loss of open-loop predictions, divided by that of predicting no change; lower is better, and 1 is no better "
        "than predicting no change."
    )

    def __call__(self, level: Level, output: LevelOutput, episodes: EncodedEpisodes) -> float:
        # up to the last latent of the context, predictions are one step from what was observed
        last = min(level.predictor.context, output.predicted.shape[1]) - 1
        return ratio_to_copy_last(level.predictor.error, output.predicted[:, last:], output.latent[:, last:])

    def alarm(self, value: float) -> str | None:
        if value > MAX_RATIO:
            return f"predictions are hardly better than predicting no change (error ratio {value:.2f})"
        return None


def ratio_to_copy_last(error: Callable[[Tensor, Tensor], Tensor], predicted: Tensor, latent: Tensor) -> float:
    """Error of predictions (B, T, D) over that of repeating the first latent of (B, T+1, D)."""
    after = latent[:, 1:]
    return (error(predicted, after) / error(latent[:, :1].expand_as(after), after).clamp_min(1e-12)).item()
