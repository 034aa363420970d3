"""How many steps are left to a goal, where its energy does not tell.

The energy of a goal on a part of the state is as high after the first of the things that must be done in order as before, or
higher: to close a drawer that is locked, a button must be pressed that the goal wants as it is. A search that looks a step or
two ahead sees no reason to. So a small network learns, after the levels and from the same data, the cost to go from a latent to
what a part of the state is to be: implicit value learning without actions (GCIVL; Kostrikov et al. 2022, arXiv 2110.06169,
equation 5; Park et al. 2025, arXiv 2410.20092), with one target for both networks, the more careful of their slow copies, and
goals relabelled in hindsight (Andrychowicz et al. 2017, arXiv 1707.01495).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hiwm.checks import within
from hiwm.data.store import Trajectories
from hiwm.levels.networks import mlp
from hiwm.planning.fitting import FitConfig, minimize
from hiwm.tensors import load_tensors

MEMBERS = 2  # networks; the higher cost of the two is bootstrapped from, against the optimism of the expectile
FUTURE = 0.6  # share of goals from the same episode's future
HERE = 0.1  # share of goals that are the state itself; the rest is from anywhere
AHEAD = (1, 2, 4, 8)  # steps after which held-out episodes tell what costs were worth
MASKED = 0.5  # share of goals that leave numbers open, each with this chance again


@dataclass(frozen=True)
class CostToGoConfig(FitConfig):
    """How costs to go are learned, from pairs of state and goal.

    Args:
        levels: those that learn one.
        discount: of a step of the level.
        expectile: 0.5 is the mean over what the data did next, 1 the best of it.
        tolerance: every number at most so far from the goal's, in deviations of the data: reached.
        target_rate: share of the networks in their slow copies, each step.
    """

    section = "cost_to_go"
    levels: Sequence[int] = ()
    steps: int = 12000
    batch: int = 512
    discount: float = 0.9
    expectile: float = 0.9
    tolerance: float = 0.3
    target_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        name = "cost_to_go."
        within(name, "(0, 1)", discount=self.discount, expectile=self.expectile)
        within(name, "(0, inf)", tolerance=self.tolerance)
        within(name, "(0, 1]", target_rate=self.target_rate)

    def check(self, num_levels: int, columns: Sequence[str]) -> None:
        """Raise a ValueError when a stack of `num_levels` has no such levels, or goals are about no columns."""
        if wrong := [k for k in self.levels if not 0 <= k < num_levels]:
            raise ValueError(f"cost_to_go.levels holds {wrong[0]}; allowed: 0 to {num_levels - 1}")
        if self.levels and not columns:
            raise ValueError(
                f"cost_to_go.levels is {list(self.levels)} but goal.columns is empty; allowed: goal.columns that name the part of "
                "the state goals are about, or no levels"
            )


class CostToGo(nn.Module):
    """Steps of a level from its latents to goals on a part of the state.

    The networks tell 1 - discount^n of n steps to go, which lies between 0 and 1 however far the goal is.

    Args:
        dim_latent: size D of the latent.
        dim: size G of the part.
        width: units a hidden layer.
        depth: hidden layers.
        discount: of a step.

    Attributes:
        mean, std: of the part in the data, (G,).
        ahead: median cost of going to where held-out episodes came to in `AHEAD` steps, (4,): at most those, if it learned how
            far goals are, and more the farther; not a number where no episode is long enough.
    """

    mean: Tensor
    std: Tensor
    ahead: Tensor

    def __init__(self, *, dim_latent: int, dim: int, width: int, depth: int, discount: float) -> None:
        super().__init__()
        self.depth, self.discount = depth, discount
        networks = [mlp(dim_latent + 2 * dim, width, depth, 1) for _ in range(MEMBERS)]
        for network in networks:
            last = network[-1]
            assert isinstance(last, nn.Linear), "an MLP ends in a linear layer"
            # out of reach until the data shows a way: an expectile unlearns what is too high sooner than what is too low
            nn.init.ones_(last.bias)
        self.networks = nn.ModuleList(networks)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("ahead", torch.full((len(AHEAD),), torch.nan))

    def told(self, latent: Tensor, goal: Tensor) -> Tensor:
        """1 - discount^n, by each network: (..., D) and (..., G), not a number where it does not matter -> (MEMBERS, ...)."""
        goal = goal.expand(*latent.shape[:-1], -1)
        known = ~goal.isnan()
        wanted = torch.where(known, (goal - self.mean) / self.std, 0.0)
        x = torch.cat([latent, wanted, known.to(latent)], -1)
        # float32 again: near 1, bfloat16 is too coarse for the logarithm of what is left
        return torch.stack([network(x).squeeze(-1).float() for network in self.networks])

    def forward(self, latent: Tensor, goal: Tensor) -> Tensor:
        """Steps of the level, the mean of the networks, at most those of 1 - discount^n = 0.999: arguments as in `told`, (...)."""
        left = (1 - self.told(latent, goal).mean(0)).clamp(1e-3, 1)
        return left.log() / math.log(self.discount)

    def save(self, path: Path) -> None:
        """One safetensors file."""
        described = {"depth": torch.tensor(self.depth), "discount": torch.tensor(self.discount, dtype=torch.float64)}
        save_file(self.state_dict() | described, path)

    @staticmethod
    def load(path: Path, device: str = "cpu") -> CostToGo:
        """What `save` wrote."""
        tensors = load_tensors(path, device=device)
        depth, discount = int(tensors.pop("depth")), float(tensors.pop("discount"))
        dim, (width, dim_in) = len(tensors["std"]), tensors["networks.0.0.weight"].shape
        cost = CostToGo(dim_latent=dim_in - 2 * dim, dim=dim, width=width, depth=depth, discount=discount)
        cost.load_state_dict(tensors)
        return cost.to(device).eval().requires_grad_(False)


def fit_cost_to_go(
    latents: Trajectories,
    part: np.ndarray,
    period: int,
    config: CostToGoConfig,
    *,
    validation: float,
    seed: int,
    device: torch.device,
) -> CostToGo:
    """Learn how far goals are from a level's cached latents.

    Args:
        latents: with a column `latent`, (N, D).
        part: what goals are about, (N, G), row by row.
        period: environment steps, which are rows, in a step of the level.
        config: how.
        validation: share of the episodes held out.
        seed: of initial weights and draws.
        device: where to train.
    """
    torch.manual_seed(seed)
    seen, held_out = latents.split(validation)
    column = torch.from_numpy(np.array(latents.column("latent"))).to(device)
    parts = torch.from_numpy(np.asarray(part, np.float32)).to(device)
    cost = CostToGo(
        dim_latent=column.shape[1], dim=parts.shape[1], width=config.width, depth=config.depth, discount=config.discount
    ).to(device)
    rows = torch.from_numpy(seen.rows)
    cost.mean.copy_(parts[rows.to(device)].mean(0))
    cost.std.copy_(parts[rows.to(device)].std(0).clamp_min(1e-6))
    starts = torch.from_numpy(seen.starts(period))
    if not len(starts):
        raise ValueError(f"{latents.path}: no episode holds a step of {period} rows and the row it leads to")
    ends = torch.from_numpy(np.repeat(seen.ep_offset + seen.ep_len, seen.ep_len))[starts - rows[0]]  # of their episodes
    slow = copy.deepcopy(cost).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def goals(at: Tensor, end: Tensor) -> Tensor:
        """Of states in these rows of episodes that end before those, (B,) -> (B, G)."""
        later = hindsight(at, end, period, config.discount, uniform(len(at)))
        anywhere = rows[torch.randint(len(rows), at.shape, generator=generator)]
        kind = uniform(len(at))
        goal = parts[torch.where(kind < HERE, at, torch.where(kind < HERE + FUTURE, later, anywhere)).to(device)]
        drop = (uniform(len(at), 1) < MASKED) & (uniform(*goal.shape) < MASKED)
        return goal.masked_fill(drop.to(device), torch.nan)

    def loss() -> Tensor:
        chosen = torch.randint(len(starts), (config.batch,), generator=generator)
        at = starts[chosen]
        goal = goals(at, ends[chosen])
        reached, then_reached = (
            ~(((parts[row.to(device)] - goal) / cost.std).abs() > config.tolerance).any(-1) for row in (at, at + period)
        )
        with torch.no_grad():
            for kept, new in zip(slow.parameters(), cost.parameters(), strict=True):
                kept.lerp_(new, config.target_rate)
            onward = slow.told(column[(at + period).to(device)], goal)
            target = backup(onward, reached, then_reached, config.discount)
        error = target - cost.told(column[at.to(device)], goal)
        weight = torch.where(error < 0, config.expectile, 1 - config.expectile)
        return (weight * error.square()).mean()

    minimize(loss, cost, config.steps, config.learning_rate, "cost to go")
    for i, steps in enumerate(AHEAD):
        now = torch.from_numpy(held_out.starts(steps * period))
        if len(now):
            now = now[torch.randint(len(now), (config.batch,), generator=generator)].to(device)
            cost.ahead[i] = cost(column[now], parts[now + steps * period]).median()
    return cost


def hindsight(at: Tensor, end: Tensor, period: int, discount: float, drawn: Tensor) -> Tensor:
    """Rows of goals a geometric number of steps after rows `at`, of episodes that end before rows `end`, (B,) each -> (B,).

    Whole steps, so that backups meet them (hindsight relabelling: Andrychowicz et al. 2017; geometric: Eysenbach et al. 2021).

    Args:
        at: where the steps start; at least one of them fits in.
        end: see above.
        period: rows in a step.
        discount: of a step; a step more is that much rarer.
        drawn: from U(0, 1).
    """
    ahead = 1 + (drawn.clamp_min(1e-9).log() / math.log(discount)).long()
    return at + period * torch.minimum(ahead, (end - 1 - at) // period)


def backup(onward: Tensor, reached: Tensor, then_reached: Tensor, discount: float) -> Tensor:
    """1 - discount^n of states, by what the networks tell of where a step leads: (MEMBERS, B) -> (B,).

    Args:
        onward: what they tell. The one that holds the goal for farthest counts, as in clipped double Q-learning (Fujimoto et al. 2018,
            equation 10): what the data does not show must not seem near.
        reached: whether the goal is met in the state, (B,).
        then_reached: whether it is where the step leads, (B,); the last rows of an episode have no step of their own to learn that from.
        discount: of a step.
    """
    left = onward.amax(0).clamp(0, 1).masked_fill(then_reached, 0.0)
    return (1 - discount * (1 - left)).masked_fill(reached, 0.0)
