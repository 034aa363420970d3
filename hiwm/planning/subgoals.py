"""The outcomes of the subgoals a level hands down, and the penalty of trying a failed one again.

A level's model may predict a path that does not exist. The episode then stays where it is, and the next search chooses the
same path again. So after a subgoal fails, the path from where the episode was to that subgoal costs more for the rest of the
episode. `graph/edge_memory.py` does the same for the edges of a landmark graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hiwm.levels.distance import distance
from hiwm.planning.explain.outcome import OPEN, REACHED, UNREACHABLE, UNREACHED, SubgoalOutcome
from hiwm.planning.rollout import Rollout

COMPACT_AT = 16  # subgoals in a record from which decided ones are dropped on a GPU, where counting them means waiting
REACHED_SHARE = 0.5  # of the distance at the start, or of a typical step if that is more: this near counts as reached


class SubgoalRecord(NamedTuple):
    """R subgoals of each of B episodes.

    Args:
        start, end: where the episode was, and the subgoal, (B, R, D).
        scale: distance between the two, at least that of a typical step, (B, R).
        nearest: least distance of the episode from the subgoal so far, (B, R).
        planned_at: environment step it was handed down at, (B, R).
        until: environment step at which it is decided at the latest, (B, R).
        open: not decided yet, (B, R).
        unreachable: the level below finds no path to it, (B, R).
        failed: decided, and not reached, (B, R).
    """

    start: Tensor
    end: Tensor
    scale: Tensor
    nearest: Tensor
    planned_at: Tensor
    until: Tensor
    open: Tensor
    unreachable: Tensor
    failed: Tensor


class SubgoalTally(NamedTuple):
    """Subgoals that were decided, of all episodes together, () each.

    Args:
        reached, unreached, unreachable: how many.
        steps: environment steps from handing down to reaching, summed over those that were reached.
        distance_left: least length to the subgoal, as a share of that at the start or of a typical step if that is more, summed over all.
    """

    reached: Tensor
    unreached: Tensor
    unreachable: Tensor
    steps: Tensor
    distance_left: Tensor

    def plus(self, record: SubgoalRecord, reached: Tensor, failed: Tensor, left: Tensor, step: int) -> SubgoalTally:
        """With the subgoals (B, R) that are decided at this environment step; a GPU is not waited for."""
        new = (
            reached.sum(),
            (failed & ~record.unreachable).sum(),
            (failed & record.unreachable).sum(),
            (step - record.planned_at).where(reached, 0).sum(),
            left.where(reached | failed, 0.0).sum(),
        )
        return SubgoalTally(*(old + more for old, more in zip(self, new, strict=True)))


class SubgoalMonitor:
    """Watches the subgoals that one level hands down to B episodes.

    Args:
        step_cost: distance of one step of the level, see `LevelModel`.
        p: power of the distance of the level, which all distances here are; half of a length is 0.5 ** p of such a distance.
        patience: a subgoal has failed if it is not reached within this many times the steps until its deadline. Later subgoals
            do not end that time, because a level that keeps changing its mind does not arrive either.
        failure_penalty: cost of a path that failed, as a multiple of the cost of staying where the episode is; 0: failures are only reported.
        like: a tensor with the shape, type and device of the level's latents, (B, D).
    """

    def __init__(self, step_cost: float, p: int, patience: float, failure_penalty: float, like: Tensor) -> None:
        self.least, self.p, self.near = step_cost, p, REACHED_SHARE**p
        self.patience = patience
        self.failure_penalty = failure_penalty
        none, number = like.new_zeros(len(like), 0), like.new_zeros(len(like), 0, dtype=torch.long)
        points = like.new_zeros(len(like), 0, like.shape[1])
        flags = (none.bool(), none.bool(), none.bool())
        self.record = SubgoalRecord(points, points, none, none, number, none, *flags)
        zero = like.new_zeros(len(like))
        self.outcome = SubgoalOutcome(zero.long() + OPEN, zero.long(), zero)
        #: subgoals of all episodes that were decided; sums, see `SubgoalTally`
        self.tally = SubgoalTally(*like.new_zeros(5, dtype=torch.double))
        #: whether any path has a penalty
        self.any_failed = False
        self.compact_at = COMPACT_AT

    def hand_down(
        self, latent: Tensor, subgoal: Tensor, step: int, deadline: int, followed: Tensor | None = None
    ) -> None:
        """Record subgoals (B, D) for episodes at latents (B, D); the deadline is in environment steps from `step` on.

        Where the level below plans for the goal itself instead (`followed` is false, (B,)), no subgoal is decided any more.
        """
        apart = distance(subgoal, latent, self.p)
        now, until = torch.full_like(apart, step).long(), torch.full_like(apart, step + self.patience * deadline)
        no = torch.zeros_like(apart, dtype=torch.bool)
        new = (latent, subgoal, apart.clamp_min(self.least), apart, now, until, ~no, no, no)
        columns = zip(self.record, new, strict=True)
        self.record = SubgoalRecord(*(torch.cat([column, one.unsqueeze(1)], 1) for column, one in columns))
        if followed is not None:
            self.record = self.record._replace(open=self.record.open & followed.unsqueeze(1))

    def report_reach(self, planned_at: int, cost: Tensor) -> None:
        """Record the least distance, (B,), that the level below predicts to the subgoals of step `planned_at`."""
        record = self.record
        unreachable = cost.unsqueeze(1) > self.near * record.scale
        unreachable = torch.where(record.planned_at == planned_at, unreachable, record.unreachable)
        self.record = record._replace(unreachable=unreachable)

    def observe(self, latent: Tensor, step: int) -> Tensor:
        """Decide which subgoals are reached or failed, with the episodes at latents (B, D).

        The CPU waits for a GPU only with a failure penalty, and at times to drop subgoals that no longer matter.

        Returns:
            Whether a subgoal of the episode failed now, (B,).
        """
        nearest = torch.minimum(self.record.nearest, distance(self.record.end, latent.unsqueeze(1), self.p))
        record = self.record._replace(nearest=nearest)
        reached = record.open & (nearest <= self.near * record.scale)
        failed = record.open & ~reached & (record.unreachable | (record.until <= step))
        if failed.device.type == "cpu" and not (reached | failed).any():  # nothing else changes
            self.record = record
            return failed.any(1)
        left = (record.nearest / record.scale) ** (1 / self.p)
        self.outcome = _latest(record, reached, failed, left, self.outcome)
        self.tally = self.tally.plus(record, reached, failed, left, step)
        record = record._replace(open=record.open & ~reached & ~failed)
        if self.failure_penalty:  # a failed path is forgiven once it works
            again = self._difference(record.start, record.end) <= self.near
            forgiven = (again & reached.unsqueeze(2)).any(1)
            record = record._replace(failed=(record.failed & ~forgiven) | failed)
            self.any_failed = bool(record.failed.any())
        if failed.device.type == "cpu" or failed.shape[1] >= self.compact_at:
            wanted = (record.open | record.failed).any(0).nonzero()[:, 0]
            record = SubgoalRecord(*(column[:, wanted] for column in record))
            self.compact_at = max(COMPACT_AT, 2 * len(wanted))
        self.record = record
        return failed.any(1)

    def penalty(self, current_cost: Tensor) -> Callable[[Rollout], Tensor] | None:
        """The penalty of trying failed paths again, rollout -> (B, S, H); None where nothing failed.

        Args:
            current_cost: cost of staying, (B,), the unit of the penalty.
        """
        if not self.any_failed:
            return None
        penalty = self.failure_penalty * current_cost[:, None, None]
        return lambda rollout: penalty * self.similarity(rollout)

    def similarity(self, rollout: Rollout) -> Tensor:
        """How often failed paths would be tried again up to each step, (B, S, H); one exact repetition counts 1.

        sum of exp(-(|from - start|^p + |to - end|^p) / scale) over the failed paths and over the steps from -> to so far.
        """
        predicted = rollout.latents
        start = rollout.start[:, None, None].expand(-1, predicted.shape[1], 1, -1)
        before = torch.cat([start, predicted[:, :, :-1]], 2)
        likeness = torch.exp(-self._difference(before.flatten(1, 2), predicted.flatten(1, 2)))  # (B, S * H, R)
        again = torch.where(self.record.failed.unsqueeze(1), likeness, 0.0).sum(-1)
        return again.unflatten(1, predicted.shape[1:3]).cumsum(-1)

    def select(self, rows: Tensor) -> None:
        """Continue with some of the episodes only."""
        self.record = SubgoalRecord(*(column[rows] for column in self.record))
        self.outcome = self.outcome.select(rows)
        self.any_failed = self.any_failed and bool(self.record.failed.any())

    def _difference(self, start: Tensor, end: Tensor) -> Tensor:
        """Distances of paths, from and to (B, N, D), from the recorded ones, in units of `scale`, (B, N, R)."""
        ends = (start, self.record.start), (end, self.record.end)
        apart = sum(torch.cdist(a, b, p=self.p) ** self.p for a, b in ends)
        return apart / self.record.scale.unsqueeze(1)


def _latest(
    record: SubgoalRecord, reached: Tensor, failed: Tensor, left: Tensor, before: SubgoalOutcome
) -> SubgoalOutcome:
    """The outcome of each episode's latest subgoal that was decided now, (B, R), or `before`."""
    decided = reached | failed
    if not decided.shape[1]:
        return before
    numbers = torch.arange(decided.shape[1], device=decided.device)
    last = torch.where(decided, numbers, 0).argmax(1, keepdim=True)
    outcome = torch.where(reached, REACHED, torch.where(record.unreachable, UNREACHABLE, UNREACHED))
    now = (x.gather(1, last).squeeze(1) for x in (outcome, record.planned_at, left))
    then = (before.outcome, before.planned_at, before.left)
    any_ = decided.any(1)
    return SubgoalOutcome(*(torch.where(any_, a, b) for a, b in zip(now, then, strict=True)))
