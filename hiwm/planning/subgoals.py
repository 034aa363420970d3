"""What became of the subgoals a level handed down, and what it costs to ask for one that failed again.

A level's model may believe in a way that is none. The episode then stays where it is, and the next search, which knows no
better, asks for the same again. So a subgoal that was not reached makes its way, from where the episode was to where it was
sent, dearer for the rest of the episode: what `EdgeMemory` does for the edges of a landmark graph.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hiwm.planning.reasons import NOTHING, REACHED, UNREACHABLE, UNREACHED, Verdict

ARRIVED = 0.5  # of how far it was away, or of a typical step if that is more: a subgoal this near counts as reached


class Handed(NamedTuple):
    """R subgoals of each of B episodes.

    Args:
        start, end: where the episode was, and the subgoal, (B, R, D).
        scale: squared distance between the two, at least that of a typical step, (B, R).
        nearest: least squared distance of the episode from the subgoal since, (B, R).
        made_at, until: environment steps it was handed down at, and is judged at the latest, (B, R).
        open: not judged yet, (B, R).
        hopeless: the level below sees no way there, (B, R).
        failed: it was not reached, (B, R).
    """

    start: Tensor
    end: Tensor
    scale: Tensor
    nearest: Tensor
    made_at: Tensor
    until: Tensor
    open: Tensor
    hopeless: Tensor
    failed: Tensor


class Subgoals:
    """The subgoals that one level hands down to B episodes.

    Args:
        step_length: typical length of one step of the level, in its latent space.
        patience: a subgoal failed if it is not reached in this many times the steps until it is due, whether or not others were
            handed down since: a level that keeps changing its mind does not get there either.
        remembers: whether what failed costs from then on; otherwise it is told and forgotten.
        latent: of the level, for the size of the batch, (B, D).
    """

    def __init__(self, step_length: float, patience: float, remembers: bool, latent: Tensor) -> None:
        self.least = step_length**2
        self.patience = patience
        self.remembers = remembers
        none, number = latent.new_zeros(len(latent), 0), latent.new_zeros(len(latent), 0, dtype=torch.long)
        ways = latent.new_zeros(len(latent), 0, latent.shape[1])
        self.handed = Handed(ways, ways, none, none, number, none, none.bool(), none.bool(), none.bool())
        zero = latent.new_zeros(len(latent))
        self.verdict = Verdict(zero.long() + NOTHING, zero.long(), zero, zero)

    def hand_down(self, latent: Tensor, subgoal: Tensor, step: int, due: int) -> None:
        """Subgoals (B, D) for episodes at latents (B, D), due in so many environment steps."""
        distance = (subgoal - latent).square().sum(-1)
        now, until = torch.full_like(distance, step).long(), torch.full_like(distance, step + self.patience * due)
        no = torch.zeros_like(distance, dtype=torch.bool)
        new = (latent, subgoal, distance.clamp_min(self.least), distance, now, until, ~no, no, no)
        self.handed = Handed(*(torch.cat([x, one.unsqueeze(1)], 1) for x, one in zip(self.handed, new, strict=True)))

    def answer(self, made_at: int, energy: Tensor) -> None:
        """The best plan of the level below comes this near to the subgoals of that step, squared distances (B,)."""
        handed = self.handed
        hopeless = energy.unsqueeze(1) > ARRIVED**2 * handed.scale
        self.handed = handed._replace(hopeless=torch.where(handed.made_at == made_at, hopeless, handed.hopeless))

    def judge(self, latent: Tensor, step: int) -> Tensor:
        """Judge what can be judged of episodes at latents (B, D); whether a subgoal of theirs failed, (B,)."""
        nearest = torch.minimum(self.handed.nearest, (self.handed.end - latent.unsqueeze(1)).square().sum(-1))
        handed = self.handed._replace(nearest=nearest)
        reached = handed.open & (nearest <= ARRIVED**2 * handed.scale)
        failed = handed.open & ~reached & (handed.hopeless | (handed.until <= step))
        self.verdict = _last(handed, reached, failed, self.verdict)
        handed = handed._replace(open=handed.open & ~reached & ~failed)
        if self.remembers:  # until it turns out to be possible after all
            again = self._apart(handed.start, handed.end) <= ARRIVED**2
            forgiven = (again & reached.unsqueeze(2)).any(1)
            handed = handed._replace(failed=(handed.failed & ~forgiven) | failed)
        wanted = (handed.open | handed.failed).any(0)
        self.handed = Handed(*(x[:, wanted] for x in handed))
        return failed.any(1)

    def cost(self, latent: Tensor, predicted: Tensor) -> Tensor:
        """How much of what failed would be tried again, up to each step of a plan; 1 for the same way once.

        sum of exp(-(|from - start|^2 + |to - end|^2) / scale) over what failed and over the steps from -> to so far.

        Args:
            latent: where the episodes are, (B, D).
            predicted: the plans' latents, (B, S, H, D).

        Returns:
            (B, S, H).
        """
        here = latent[:, None, None].expand(-1, predicted.shape[1], 1, -1)
        before = torch.cat([here, predicted[:, :, :-1]], 2)
        likeness = torch.exp(-self._apart(before.flatten(1, 2), predicted.flatten(1, 2)))  # (B, S * H, R)
        again = torch.where(self.handed.failed.unsqueeze(1), likeness, 0.0).sum(-1)
        return again.unflatten(1, predicted.shape[1:3]).cumsum(-1)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the episodes only."""
        self.handed = Handed(*(x[rows] for x in self.handed))
        self.verdict = self.verdict.keep(rows)

    def _apart(self, start: Tensor, end: Tensor) -> Tensor:
        """Of ways (B, N, D) -> (B, N, D) from those that were handed down, in the scale of these, (B, N, R)."""
        apart = torch.cdist(start, self.handed.start).square() + torch.cdist(end, self.handed.end).square()
        return apart / self.handed.scale.unsqueeze(1)


def _last(handed: Handed, reached: Tensor, failed: Tensor, before: Verdict) -> Verdict:
    """On the last subgoal of each episode that was judged, of those that are now, (B, R), or `before`."""
    judged = reached | failed
    if not judged.shape[1]:
        return before
    numbers = torch.arange(judged.shape[1], device=judged.device)
    last = torch.where(judged, numbers, 0).argmax(1, keepdim=True)
    outcome = torch.where(reached, REACHED, torch.where(handed.hopeless, UNREACHABLE, UNREACHED))
    now = (x.gather(1, last).squeeze(1) for x in (outcome, handed.made_at, handed.nearest, handed.scale))
    then = (before.outcome, before.made_at, before.energy, before.scale)
    any_ = judged.any(1)
    return Verdict(*(torch.where(any_, a, b) for a, b in zip(now, then, strict=True)))
