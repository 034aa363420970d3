"""A head that predicts the number of steps to a goal, for tasks whose steps have an order.

To close a locked drawer, the agent must first press a button, although the goal specifies the present state of the button.
Pressing it does not lower the cost of the goal, so a search that looks one or two steps ahead sees no reason to press it. A
small network therefore learns the number of steps from a latent to a goal on a part of the state. It is fitted after the
levels, on the same data, by implicit value learning without actions (GCIVL; Kostrikov et al. 2022, arXiv
2110.06169, equation 5; Park et al. 2025, arXiv 2410.20092). Two networks share one target, the larger prediction of their
target networks, and goals are relabelled in hindsight (Andrychowicz et al. 2017, arXiv 1707.01495).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from hiwm.heads.head import Head
from hiwm.heads.optimize import MEASURED, DeviceColumn, FitConfig, FitData
from hiwm.levels.networks import mlp

MEMBERS = 2  # number of networks; the target uses their larger prediction, because the expectile is optimistic
FUTURE = 0.6  # share of goals from the future of the same episode
SAME = 0.1  # share of goals that are the state itself; all other goals are random states of the data
AHEAD = (1, 2, 4, 8)  # numbers of steps for which held-out episodes measure the head
MASKED = 0.5  # share of goals with unspecified numbers, and the probability of each number in them to be unspecified


class ValueConfig(FitConfig):
    """Size and training of the value head.

    Args:
        levels: levels with a value head.
        discount: discount per step of the level.
        expectile: 0.5 learns the mean over the continuations in the data, 1 the best continuation.
        tolerance: a goal counts as reached where every number is at most this far from it, in standard deviations of the data.
        target_rate: EMA rate of the target networks.
    """

    section: ClassVar[str] = "value"
    levels: list[int]
    discount: float = Field(gt=0, lt=1)
    expectile: float = Field(gt=0, lt=1)
    tolerance: float = Field(gt=0)
    target_rate: float = Field(gt=0, le=1)

    def check(self, num_levels: int, columns: Sequence[str]) -> None:
        """Raise a ValueError if the hierarchy lacks one of the levels, or if goals are not about a part of the state."""
        if not all(0 <= k < num_levels for k in self.levels):
            raise ValueError(f"value.levels is {self.levels}; expected levels from 0 to {num_levels - 1}")
        if self.levels and not columns:
            raise ValueError(
                f"value.levels is {self.levels} and goal.columns is empty; expected goal.columns that name the part of the "
                "state that goals are about. Set goal.columns, or value.levels=[]"
            )


class Value(Head):
    """Predicts the steps of a level from its latents to goals on a part of the state.

    The networks predict 1 - discount^n for n steps, which lies between 0 and 1 however far the goal is.

    Args:
        dim_latent: size D of the latent.
        dim: size G of the part.
        width: units of a hidden layer.
        depth: hidden layers.
        discount: discount per step of the level.

    Attributes:
        mean, std: mean and standard deviation of the part in the data, (G,).
        ahead: median predicted steps to the state that held-out episodes reached in `AHEAD` steps, (4,). A good head predicts
            at most those numbers, and the predictions grow with them. NaN if no episode is long enough.
    """

    mean: Tensor
    std: Tensor
    ahead: Tensor

    def __init__(self, *, dim_latent: int, dim: int, width: int, depth: int, discount: float) -> None:
        super().__init__()
        self.discount = discount
        networks = [mlp(dim_latent + 2 * dim, width, depth, 1) for _ in range(MEMBERS)]
        for network in networks:
            last = network[-1]
            assert isinstance(last, nn.Linear), "an MLP ends in a linear layer"
            # initial predictions are too high, because an expectile corrects them sooner than predictions that are too low
            nn.init.ones_(last.bias)
        self.networks = nn.ModuleList(networks)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("ahead", torch.full((len(AHEAD),), torch.nan))

    def discounted(self, latent: Tensor, goal: Tensor) -> Tensor:
        """Predict 1 - discount^n with each network.

        Args:
            latent: (..., D).
            goal: (..., G); NaN for a number that is unspecified.

        Returns:
            (MEMBERS, ...).
        """
        goal = goal.expand(*latent.shape[:-1], -1)
        known = ~goal.isnan()
        wanted = torch.where(known, (goal - self.mean) / self.std, 0.0)
        x = torch.cat([latent, wanted, known.to(latent)], -1)
        # float32 again, because near 1 bfloat16 is too coarse for the logarithm in `forward`
        return torch.stack([network(x).squeeze(-1).float() for network in self.networks])

    def forward(self, latent: Tensor, goal: Tensor) -> Tensor:
        """Predict the number of steps of the level, (...), by the mean of the networks; arguments as in `discounted`.

        The largest prediction is the n with 1 - discount^n = 0.999.
        """
        left = (1 - self.discounted(latent, goal).mean(0)).clamp(1e-3, 1)
        return left.log() / math.log(self.discount)


def fit_value(data: FitData, part: Any, period: int, config: ValueConfig) -> Value:
    """Learn how many steps goals are away from a level's latents.

    Args:
        data: latents of the level.
        part: the part of the state that goals are about, (N, G), row by row; an array or a column.
        period: environment steps (rows) in one step of the level.
        config: size and training of the networks.
    """
    parts = DeviceColumn(part, data.device)
    value = data.new(Value, config, dim=parts.shape[1], discount=config.discount)
    goals = _Goals(data, parts, period, config.discount)
    some = parts[goals.rows.spread(MEASURED)]
    value.mean.copy_(some.mean(0))
    value.std.copy_(some.std(0).clamp_min(1e-6))
    slow = copy.deepcopy(value).requires_grad_(False)

    def loss(rows: Tensor) -> Tensor:
        goal = goals.draw(rows)
        now, then = rows, rows + period
        reached, then_reached = (
            ~(((parts[at] - goal) / value.std).abs() > config.tolerance).any(-1) for at in (now, then)
        )
        with torch.no_grad():
            for kept, new in zip(slow.parameters(), value.parameters(), strict=True):
                kept.lerp_(new, config.target_rate)
            onward = slow.discounted(data.latent[then], goal)
            target = backup(onward, reached, then_reached, config.discount)
        error = target - value.discounted(data.latent[now], goal)
        weight = torch.where(error < 0, config.expectile, 1 - config.expectile)
        return (weight * error.square()).mean()

    data.minimize(loss, value, data.starts(period), config, "value")
    _measure_ahead(value, data, parts, period, config.batch)
    return value


def _measure_ahead(value: Value, data: FitData, parts: DeviceColumn, period: int, batch: int) -> None:
    """Set `value.ahead`: medians for states that held-out episodes reached; parts: (N, G), row by row."""
    for i, steps in enumerate(AHEAD):
        rows = data.rows(data.held_out, steps * period)
        if len(rows):
            now = data.draw(rows, batch)
            value.ahead[i] = value(data.latent[now], parts[now + steps * period]).median()


class _Goals:
    """Draws goals for states of the training episodes.

    Args:
        data: the episodes, and the generator of the draws.
        parts: the part of the state that goals are about, (N, G), row by row.
        period: rows in a step.
        discount: per step.

    Attributes:
        rows: rows of the training episodes.
    """

    def __init__(self, data: FitData, parts: DeviceColumn, period: int, discount: float) -> None:
        self.parts, self.period, self.discount, self.generator = parts, period, discount, data.generator
        episodes = data.training
        self.rows = data.rows(episodes)
        self._ends = data.tensor(episodes.ep_offset + episodes.ep_len)

    def draw(self, at: Tensor) -> Tensor:
        """Draw one goal for each of the rows `at`, (B,) -> (B, G)."""
        end = self._ends[torch.searchsorted(self._ends, at, right=True)]  # of the row's episode
        later = hindsight(at, end, self.period, self.discount, self._uniform(len(at)))
        other = self.rows[torch.randint(len(self.rows), at.shape, generator=self.generator, device=at.device)]
        kind = self._uniform(len(at))
        row = torch.where(kind < SAME, at, torch.where(kind < SAME + FUTURE, later, other))
        goal = self.parts[row]
        drop = (self._uniform(len(at), 1) < MASKED) & (self._uniform(*goal.shape) < MASKED)
        return goal.masked_fill(drop, torch.nan)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.generator.device)


def hindsight(at: Tensor, end: Tensor, period: int, discount: float, drawn: Tensor) -> Tensor:
    """Draw the row of a goal a geometric number of steps after each row.

    Steps are whole, so that the recursion of the value meets the goals (hindsight relabelling: Andrychowicz et al. 2017;
    geometric: Eysenbach et al. 2021).

    Args:
        at: rows where the steps start, (B,); at least one step fits into the episode.
        end: the row after each episode's last one, (B,).
        period: rows in a step.
        discount: n + 1 steps are drawn `discount` times as often as n.
        drawn: from U(0, 1), (B,).

    Returns:
        Rows, (B,).
    """
    ahead = 1 + (drawn.clamp_min(1e-9).log() / math.log(discount)).long()
    return at + period * torch.minimum(ahead, (end - 1 - at) // period)


def backup(onward: Tensor, reached: Tensor, then_reached: Tensor, discount: float) -> Tensor:
    """Compute the target 1 - discount^n of states from the predictions at the next states.

    Args:
        onward: predictions of the networks at the next states, (MEMBERS, B). The largest counts, as in clipped double Q-learning
            (Fujimoto et al. 2018, equation 10), because states that the data does not show must not seem near.
        reached: whether the state meets the goal, (B,).
        then_reached: whether the next state meets the goal, (B,). The last rows of an episode are the start of no step, so the
            networks cannot learn it there.
        discount: per step.

    Returns:
        (B,).
    """
    left = onward.amax(0).clamp(0, 1).masked_fill(then_reached, 0.0)
    return (1 - discount * (1 - left)).masked_fill(reached, 0.0)
