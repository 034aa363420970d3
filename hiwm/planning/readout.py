"""What a latent says about the part of the state that goals are about.

A goal on a part of the state needs no decoder of observations: a small network reads that part from each level's latent.
It learns after the levels, from latents that no longer change, so that it describes them and does not shape them. Its
linear half begins as the least-squares solution, which reads a latent that holds the part as it is without any error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from hiwm.data.store import Trajectories
from hiwm.levels.networks import mlp
from hiwm.levels.parts import Predictor
from hiwm.planning.fitting import FitConfig, minimize
from hiwm.tensors import load_tensors

LINEAR_ROWS = 50_000  # that least squares are solved over


@dataclass(frozen=True)
class GoalConfig(FitConfig):
    """What goals are about, and how a readout of it learns.

    Args:
        columns: of an observation, which a goal sets; empty for all of it, as latents.
    """

    section = "goal"
    columns: Sequence[str] = ()
    depth: int = 2


class Readout(nn.Module):
    """g = mean + std * (W z + b + MLP(z)): a part of the state from a level's latent.

    Args:
        dim_latent: size D of the latent.
        dim: size G of the part.
        width: units a hidden layer.
        depth: hidden layers.

    Attributes:
        mean, std: of the part in the data, (G,).
        error: root mean square error on held-out episodes, in the part's own units, (G,).
        foreseen: the same of latents that the level predicts one step ahead from real actions, (G,): how sharply it can
            tell where its plans end.
    """

    mean: Tensor
    std: Tensor
    error: Tensor
    foreseen: Tensor

    def __init__(self, *, dim_latent: int, dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.linear = nn.Linear(dim_latent, dim)
        self.net = mlp(dim_latent, width, depth, dim)
        for name in ("mean", "std", "error", "foreseen"):
            self.register_buffer(name, torch.ones(dim))

    def forward(self, latent: Tensor) -> Tensor:
        """(..., D) -> (..., G)."""
        return self.mean + self.std * self.told(latent)

    def told(self, latent: Tensor) -> Tensor:
        """The part in deviations from its mean, (..., D) -> (..., G)."""
        return self.linear(latent) + self.net(latent)

    def fit_linear(self, latent: Tensor, part: Tensor) -> None:
        """Before training: mean, deviation and least squares of latents (N, D) and parts (N, G); the MLP adds nothing yet."""
        self.mean.copy_(part.mean(0))
        self.std.copy_(part.std(0).clamp_min(1e-6))
        # in double precision, and by a method that minds no dimension that is constant or told twice
        known = torch.cat([latent, torch.ones_like(latent[:, :1])], 1).double().cpu()
        wanted = ((part - self.mean) / self.std).double().cpu()
        solved = torch.linalg.lstsq(known, wanted, driver="gelsd").solution.to(self.linear.weight)
        last = self.net[-1]
        assert isinstance(last, nn.Linear), "an MLP ends in a linear layer"
        with torch.no_grad():
            self.linear.weight.copy_(solved[:-1].T)
            self.linear.bias.copy_(solved[-1])
            last.weight.zero_()
            last.bias.zero_()

    def save(self, path: Path) -> None:
        """One safetensors file."""
        save_file(self.state_dict() | {"depth": torch.tensor(self.depth)}, path)

    @staticmethod
    def load(path: Path, device: str = "cpu") -> Readout:
        """What `save` wrote."""
        tensors = load_tensors(path, device=device)
        width, dim_latent = tensors["net.0.weight"].shape
        readout = Readout(dim_latent=dim_latent, dim=len(tensors["mean"]), width=width, depth=int(tensors.pop("depth")))
        readout.load_state_dict(tensors)
        return readout.to(device).eval().requires_grad_(False)


def goal_part(dataset: Trajectories, columns: Sequence[str]) -> np.ndarray:
    """The columns that goals are about, side by side, (N, G)."""
    parts = [np.asarray(dataset.column(name), np.float32) for name in columns]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def fit_readout(
    predictor: Predictor,
    latents: Trajectories,
    period: int,
    part: np.ndarray,
    config: GoalConfig,
    *,
    validation: float,
    seed: int,
    device: torch.device,
) -> Readout:
    """Learn to read the part of the state from a level's cached latents.

    Args:
        predictor: of the level, whose predictions are measured too.
        latents: with columns `latent`, (N, D), and `action`, (N, A), those of the level.
        period: environment steps, which are rows, in one step of the level.
        part: what to read, (N, G), row by row.
        config: how.
        validation: share of the episodes held out, to measure the error.
        seed: of initial weights and draws.
        device: where to train.
    """
    torch.manual_seed(seed)
    seen, held_out = latents.split(validation)
    column = torch.from_numpy(np.array(latents.column("latent"))).to(device)
    target = torch.from_numpy(part).to(device)
    rows = torch.from_numpy(seen.rows).to(device)
    readout = Readout(dim_latent=column.shape[1], dim=target.shape[1], width=config.width, depth=config.depth)
    readout.to(device)
    generator = torch.Generator().manual_seed(seed)
    some = rows[torch.randperm(len(rows), generator=generator)[:LINEAR_ROWS].to(device)]
    readout.fit_linear(column[some], target[some])

    def loss() -> Tensor:
        drawn = rows[torch.randint(len(rows), (config.batch,), generator=generator).to(device)]
        return F.smooth_l1_loss(readout.told(column[drawn]), (target[drawn] - readout.mean) / readout.std)

    minimize(loss, readout, config.steps, config.learning_rate, "readout")
    unseen = torch.from_numpy(held_out.rows).to(device)
    readout.error.copy_((readout(column[unseen]) - target[unseen]).square().mean(0).sqrt())
    context = predictor.context
    first = torch.from_numpy(held_out.starts(context * period)).to(device)
    if len(first):
        action = torch.from_numpy(np.array(latents.column("action"))).to(device)
        rows = first.unsqueeze(1) + period * torch.arange(context, device=device)
        with torch.no_grad():
            then, _ = predictor.step(predictor.remember(column[rows], action[rows[:, :-1]]), action[rows[:, -1]])
        readout.foreseen.copy_((readout(then) - target[rows[:, -1] + period]).square().mean(0).sqrt())
    else:  # no episode is long enough to tell
        readout.foreseen.copy_(readout.error)
    return readout
