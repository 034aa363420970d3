"""Learns how many steps a goal is away, for tasks in which the cost of the goal does not show it.

Some tasks have an order. To close a locked drawer, the agent must first press a button that the goal wants as it is. After
that step the goal's cost is as high as before or higher. A search that looks one or two steps ahead therefore sees no reason
to take the step. So a small network learns the number of steps from a latent to a goal on a part of the state. It learns
after the levels and from the same data, by implicit value learning without actions (GCIVL; Kostrikov et al. 2022, arXiv
2110.06169, equation 5; Park et al. 2025, arXiv 2410.20092). Two networks share one target, the more cautious of their slow
copies, and goals are relabelled in hindsight (Andrychowicz et al. 2017, arXiv 1707.01495).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hiwm.data.store import Trajectories
from hiwm.heads.head import Head
from hiwm.heads.optimize import FitConfig, minimize
from hiwm.levels.networks import mlp

MEMBERS = 2  # networks; the target uses the higher cost of the two, against the optimism of the expectile
FUTURE = 0.6  # share of goals from the future of the same episode
SAME = 0.1  # share of goals that are the state itself; all other goals come from anywhere in the data
AHEAD = (1, 2, 4, 8)  # numbers of steps after which held-out episodes measure the head
MASKED = 0.5  # share of goals that leave numbers open, and the chance of each number to be open in them


class ValueConfig(FitConfig):
    """How steps to goals are learned, from pairs of state and goal.

    Args:
        levels: levels that learn them.
        discount: per step of the level.
        expectile: 0.5 is the mean over what the data did next, 1 is the best of it.
        tolerance: a goal counts as reached where every number is at most this far from it, in standard deviations of the data.
        target_rate: share of the networks that enters their slow copies at each step.
    """

    section: ClassVar[str] = "value"
    levels: list[int] = Field(default_factory=list)
    steps: int = Field(12000, ge=1)
    batch: int = Field(512, ge=1)
    discount: float = Field(0.9, gt=0, lt=1)
    expectile: float = Field(0.9, gt=0, lt=1)
    tolerance: float = Field(0.3, gt=0)
    target_rate: float = Field(0.01, gt=0, le=1)

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
        discount: per step.

    Attributes:
        mean, std: of the part in the data, (G,).
        ahead: median predicted steps to the state that held-out episodes reached in `AHEAD` steps, (4,). A good head predicts
            at most those numbers, and more for larger ones. NaN where no episode is long enough.
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
            # goals start out of reach, because an expectile corrects values that are too high sooner than those too low
            nn.init.ones_(last.bias)
        self.networks = nn.ModuleList(networks)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("ahead", torch.full((len(AHEAD),), torch.nan))

    def discounted(self, latent: Tensor, goal: Tensor) -> Tensor:
        """Predict 1 - discount^n with each network.

        Args:
            latent: (..., D).
            goal: (..., G); NaN where a number does not matter.

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
        """Predict steps of the level, (...), by the mean of the networks; arguments as in `discounted`.

        The largest answer is that of 1 - discount^n = 0.999.
        """
        left = (1 - self.discounted(latent, goal).mean(0)).clamp(1e-3, 1)
        return left.log() / math.log(self.discount)


def fit_value(
    latents: Trajectories,
    part: np.ndarray,
    period: int,
    config: ValueConfig,
    *,
    validation: float,
    seed: int,
    device: torch.device,
) -> Value:
    """Learn how many steps goals are away from a level's cached latents.

    Args:
        latents: the level's cache, column `latent` (N, D).
        part: what goals are about, (N, G), row by row.
        period: environment steps (rows) in one step of the level.
        config: how.
        validation: share of the episodes held out.
        seed: of initial weights and draws.
        device: where to train.
    """
    torch.manual_seed(seed)
    seen, held_out = latents.split(validation)
    column = torch.from_numpy(np.array(latents.column("latent"))).to(device)
    parts = torch.from_numpy(np.asarray(part, np.float32)).to(device)
    value = Value(
        dim_latent=column.shape[1], dim=parts.shape[1], width=config.width, depth=config.depth, discount=config.discount
    ).to(device)
    rows = torch.from_numpy(seen.rows).to(device)
    value.mean.copy_(parts[rows].mean(0))
    value.std.copy_(parts[rows].std(0).clamp_min(1e-6))
    starts = torch.from_numpy(seen.starts(period)).to(device)
    if not len(starts):
        raise ValueError(f"{latents.path}: no episode holds a step of {period} rows and the row it leads to")
    ends = torch.from_numpy(np.repeat(seen.ep_offset + seen.ep_len, seen.ep_len)).to(device)[
        starts - rows[0]
    ]  # of their episodes
    slow = copy.deepcopy(value).requires_grad_(False)
    generator = torch.Generator(device).manual_seed(seed)
    goals = _Goals(parts, rows, period, config.discount, generator)

    def loss() -> Tensor:
        chosen = torch.randint(len(starts), (config.batch,), generator=generator, device=device)
        at = starts[chosen]
        goal = goals.draw(at, ends[chosen])
        reached, then_reached = (
            ~(((parts[row] - goal) / value.std).abs() > config.tolerance).any(-1) for row in (at, at + period)
        )
        with torch.no_grad():
            for kept, new in zip(slow.parameters(), value.parameters(), strict=True):
                kept.lerp_(new, config.target_rate)
            onward = slow.discounted(column[at + period], goal)
            target = backup(onward, reached, then_reached, config.discount)
        error = target - value.discounted(column[at], goal)
        weight = torch.where(error < 0, config.expectile, 1 - config.expectile)
        return (weight * error.square()).mean()

    minimize(loss, value, config.steps, config.learning_rate, "value")
    _measure_ahead(value, held_out, column, parts, period, config.batch, generator)
    return value


def _measure_ahead(
    value: Value,
    held_out: Trajectories,
    column: Tensor,
    parts: Tensor,
    period: int,
    batch: int,
    generator: torch.Generator,
) -> None:
    """Set `value.ahead`: medians for states that held-out episodes reached. Latents (N, D) and parts (N, G), row by row."""
    for i, steps in enumerate(AHEAD):
        now = torch.from_numpy(held_out.starts(steps * period)).to(column.device)
        if len(now):
            now = now[torch.randint(len(now), (batch,), generator=generator, device=now.device)]
            value.ahead[i] = value(column[now], parts[now + steps * period]).median()


@dataclass(frozen=True)
class _Goals:
    """Draws goals for states of the training episodes.

    Args:
        parts: what goals are about, (N, G), row by row.
        rows: rows of the training episodes.
        period: rows in a step.
        discount: per step.
        generator: of the draws.
    """

    parts: Tensor
    rows: Tensor
    period: int
    discount: float
    generator: torch.Generator

    def draw(self, at: Tensor, end: Tensor) -> Tensor:
        """Draw one goal for each of the rows `at`, in episodes that end before the rows `end`, (B,) each -> (B, G)."""
        later = hindsight(at, end, self.period, self.discount, self._uniform(len(at)))
        anywhere = self.rows[torch.randint(len(self.rows), at.shape, generator=self.generator, device=at.device)]
        kind = self._uniform(len(at))
        row = torch.where(kind < SAME, at, torch.where(kind < SAME + FUTURE, later, anywhere))
        goal = self.parts[row]
        drop = (self._uniform(len(at), 1) < MASKED) & (self._uniform(*goal.shape) < MASKED)
        return goal.masked_fill(drop, torch.nan)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.parts.device)


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
            (Fujimoto et al. 2018, equation 10), because what the data does not show must not seem near.
        reached: whether the state meets the goal, (B,).
        then_reached: whether the next state does, (B,). The last rows of an episode have no step of their own from which the
            networks could learn that.
        discount: per step.

    Returns:
        (B,).
    """
    left = onward.amax(0).clamp(0, 1).masked_fill(then_reached, 0.0)
    return (1 - discount * (1 - left)).masked_fill(reached, 0.0)
