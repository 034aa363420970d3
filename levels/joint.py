"""Levels trained together: the gradient of an upper level reaches the levels below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from hiwm.levels.clip import Clip, Pairs
from hiwm.levels.distributed import uniform_rows
from hiwm.levels.level import Level
from hiwm.levels.output import EncodedClip
from hiwm.levels.trainable import Trainable

T = TypeVar("T")


class JointLevels(Trainable):
    """The same levels and losses as in staged training, over one clip of level 0 that is long enough for the top.

    A level encodes the whole clip, is trained on windows of its own horizon cut from it, and hands the encoded clip to
    the level above. A lower level therefore gets more windows in a step than the top level. Upper levels do not
    standardise their inputs (`min_std` is not used), because latents that still change have no fixed statistics. The
    pairs for their inverse models lie within the clip.

    Args:
        levels: bottom first.
    """

    def __init__(self, levels: Sequence[Level]) -> None:
        super().__init__()
        self.levels: Sequence[Level] = nn.ModuleList(levels)  # type: ignore[assignment]
        #: steps of level 0 in a clip: as many as the longest window of any level needs
        self.horizon, steps_of_0 = levels[0].horizon, 1
        for level in levels[1:]:
            steps_of_0 *= level.stride
            self.horizon = max(self.horizon, level.horizon * steps_of_0)

    def clips(self, clip: Clip, generator: torch.Generator) -> list[tuple[Clip, EncodedClip]]:
        """The clip of each level and its encoding, bottom first, from a clip of level 0."""
        views = []
        for k, level in enumerate(self.levels):
            encoded = level.encode_clip(clip)
            views.append((clip, encoded))
            if k + 1 < len(self.levels):
                clip = _clip_above(encoded, self.levels[k + 1], generator)
        return views

    def forward(self, clip: Clip, generator: torch.Generator) -> dict[str, Tensor]:
        """Named scalars, unweighted: level<k>/<loss>."""
        return {
            f"level{k}/{name}": loss
            for k, (level, (given, encoded)) in enumerate(zip(self.levels, self.clips(clip, generator), strict=True))
            for name, loss in level.losses_of(
                level.predict_clip(encoded.windows(level.horizon)), given.pairs, generator
            ).items()
        }

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The sum over the levels of their weighted losses."""
        return torch.stack([level.total(of_level(losses, k)) for k, level in enumerate(self.levels)]).sum()

    def after_step(self) -> None:
        for level in self.levels:
            level.after_step()


def of_level(named: Mapping[str, T], k: int) -> dict[str, T]:
    """The entries of one level, without the level's name."""
    start = f"level{k}/"
    return {name.removeprefix(start): value for name, value in named.items() if name.startswith(start)}


def _clip_above(encoded: EncodedClip, above: Level, generator: torch.Generator) -> Clip:
    """The clip of the level above, made of the latents and actions of this level."""
    steps = encoded.action.shape[1] // above.stride
    latent = encoded.latent[:, : steps * above.stride + 1 : above.stride]
    actions = encoded.action[:, : steps * above.stride].unflatten(1, (steps, above.stride))
    return Clip(
        {"latent": latent}, actions, None if above.inverse is None else _pairs(encoded, above.inverse.reach, generator)
    )


def _pairs(encoded: EncodedClip, reach: int, generator: torch.Generator) -> Pairs:
    """One pair of moments from every row of the batch; detached, so that the inverse model does not shape the latents."""
    batch, length = encoded.action.shape[:2]
    draws = uniform_rows(batch, 2, generator).to(encoded.latent.device)  # (B, 2)
    source = (draws[:, 0] * length).long()
    steps = 1 + (draws[:, 1] * (length - source).clamp(max=reach)).long()
    rows = torch.arange(batch, device=source.device)
    latent, action = encoded.latent.detach(), encoded.action.detach()
    return Pairs(
        {"latent": latent[rows, source]}, action[rows, source], {"latent": latent[rows, source + steps]}, steps
    )
