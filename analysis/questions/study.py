"""What the questions are asked of: a trained hierarchy, its data, and what is known of its environment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from hiwm.agent import Agent, load_agent
from hiwm.analysis.decode import DRAWN
from hiwm.config import Config
from hiwm.data.actions import fit_to_space
from hiwm.data.store import Trajectories, open_dataset
from hiwm.data.views import JoinedColumn
from hiwm.environment import installed_environment
from hiwm.envs.oracle import Observations, Oracle, Wall
from hiwm.evaluation.results import read_results
from hiwm.files import read_yaml, saved_folder
from hiwm.hierarchy import Hierarchy
from hiwm.levels.distance import distance
from hiwm.levels.landmarks import nearest

ROWS = 30_000  # of the data that are encoded, at most
NUMBERS = 120_000_000  # in the inputs of these rows, at most: 10,000 frames of 64 x 64 pixels


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Args:
        title: of the panel in the report.
        sentence: the answer in plain words, with its most important number.
        metrics: name -> number, `level<k>/<quantity>` for those of one level; NaN where it cannot be measured.
        figure: None if there is nothing to draw.
        caption: how to read the figure, and how the numbers are computed.
    """

    title: str
    sentence: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    figure: Figure | None = None
    caption: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics that are finite, for JSON and MLflow."""
        return {name: float(value) for name, value in self.metrics.items() if math.isfinite(value)}


@dataclass(frozen=True)
class EncodedRows:
    """Rows of whole episodes, one after another, encoded by every level: R rows.

    Args:
        rows: rows of the dataset, (R,).
        left: how many rows of its episode follow each row, (R,).
        states: the true state, (R, C).
        latents: of every level, bottom first, (R, D_k) each.
        actions: the action of every level that begins at the row, (R, A_k) each; of level k it means something only where at
            least its period of rows is left.
    """

    rows: np.ndarray
    left: np.ndarray
    states: np.ndarray
    latents: Sequence[Tensor]
    actions: Sequence[Tensor]

    def starts(self, steps: int, number: int, seed: int = 0) -> np.ndarray:
        """Random indices of at most `number` rows that at least `steps` rows of their episode follow, in order."""
        fits = np.flatnonzero(self.left >= steps)
        chosen = np.random.default_rng(seed).permutation(len(fits))[:number]
        return np.sort(fits[chosen])

    @property
    def episodes(self) -> list[np.ndarray]:
        """Indices of the rows of each episode."""
        return np.split(np.arange(len(self.rows)), np.flatnonzero(self.left == 0)[:-1] + 1)

    def grid(self, moments: int) -> np.ndarray:
        """Indices of evenly spaced rows of every episode, (episodes, moments)."""
        share = np.linspace(0, 1, moments)
        return np.stack([rows[np.round(share * (len(rows) - 1)).astype(int)] for rows in self.episodes])


class Study:
    """A trained hierarchy, with held-out episodes that are encoded once for all questions.

    `Study.of("runs/demo")` opens a run.

    Args:
        agent: the hierarchy and how it plans.
        dataset: the data it was trained on.
        state: columns of the true state.
        validation: share of the episodes that was held out.
        environment: made to look at its map and its oracle, never stepped; None: nothing is known of it.
        column: name of observations that are one array.
        results: of its evaluation, see `hiwm.evaluation.results`; None: it was not evaluated.
        folder: of the run; None: it has none.
    """

    def __init__(
        self,
        agent: Agent,
        dataset: Trajectories,
        state: Sequence[str],
        validation: float,
        *,
        environment: Any = None,
        column: str = "state",
        results: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.agent, self.hierarchy, self.dataset, self.state = agent, agent.hierarchy, dataset, list(state)
        self.periods, self.results, self.folder = agent.hierarchy.periods, results, folder
        self.environment, self.column = environment, column
        self._training, self._held_out = dataset.split(validation)

    @staticmethod
    def of(folder: str | Path, allow: Sequence[str] = ()) -> Study:
        """Open the run in a folder, e.g. "runs/demo".

        Args:
            folder: of the run.
            allow: packages trusted for the parts and the environment, besides hiwm's own.

        Raises:
            ValueError: there is no trained hierarchy, or no dataset.
        """
        folder = Path(folder)
        config = Config(**read_yaml(saved_folder(folder / "hierarchy") / "config.yaml")).changed({"allow": list(allow)})
        agent = load_agent(folder / "hierarchy", allow=allow, planner=config.planner)
        results = folder / f"{config.evaluation.name}.json"
        return Study.of_config(config, agent, read_results(results) if results.exists() else None, folder)

    @staticmethod
    def of_config(
        config: Config, agent: Agent, results: Mapping[str, Any] | None = None, folder: Path | None = None
    ) -> Study:
        """The study of an agent that was trained with the config; the caller loads both."""
        environment, dataset = installed_environment(config), open_dataset(config.dataset.path)
        if environment is not None:  # discrete actions are numbered as in the environment
            dataset = fit_to_space(dataset, environment.action_space, str(config.environment["_target_"]))
        return Study(
            agent,
            dataset,
            config.state,
            config.dataset.validation,
            environment=environment,
            column=config.dataset.column,
            results=results,
            folder=folder,
        )

    def close(self) -> None:
        """Close the environment."""
        if hasattr(self.environment, "close"):
            self.environment.close()

    @property
    def num_levels(self) -> int:
        return len(self.hierarchy)

    @cached_property
    def held_out(self) -> EncodedRows:
        """Held-out episodes."""
        return encode_rows(self.agent, self._held_out, self.state)

    @cached_property
    def training(self) -> EncodedRows:
        """As many rows of training episodes."""
        return encode_rows(self.agent, self._training, self.state)

    @property
    def on_map(self) -> bool:
        """Whether the state begins with a position (x, y): it has two numbers or more, and is no image."""
        return all(self.dataset.columns[name].ndim <= 2 for name in self.state) and self.held_out.states.shape[1] >= 2

    @cached_property
    def walls(self) -> list[Wall]:
        """Rectangles of the map; empty without one."""
        return list(getattr(self.environment, "walls", None) or [])

    @property
    def maps_differ(self) -> bool:
        """Whether each episode may have a map of its own; `walls` are those of all."""
        return hasattr(self.environment, "walls_of")

    @property
    def labels(self) -> list[str]:
        """Names of the numbers of the state, or of the axes of the map."""
        if self.walls:
            return ["x (world units)", "y (world units)"]
        sizes = {name: math.prod(self.dataset.column(name).shape[1:]) for name in self.state}
        return [f"{name}[{i}]" for name, size in sizes.items() for i in range(min(size, DRAWN))][:DRAWN]

    @cached_property
    def oracle(self) -> Oracle | None:
        """What is true of the environment; None if it cannot tell, or if the data lack parts of its observations."""
        oracle = getattr(self.environment, "oracle", None)
        known = all(name in self.dataset.columns for name in self._observed)
        return oracle if known else None

    @property
    def _observed(self) -> list[str]:
        space = getattr(self.environment, "observation_space", None)
        return list(space.spaces) if isinstance(space, gymnasium.spaces.Dict) else [self.column]

    def observations(self, rows: np.ndarray) -> Observations:
        """Observations of the environment in some rows of the dataset, without the colour images in dicts, as its oracle takes them."""
        alone = len(self._observed) == 1
        names = [name for name in self._observed if alone or self.dataset.columns[name].ndim <= 3]
        columns = {name: np.asarray(self.dataset.column(name)[rows]) for name in names}
        space = getattr(self.environment, "observation_space", None)
        return columns if isinstance(space, gymnasium.spaces.Dict) else columns[self.column]

    def step_length(self, level: int, p: int = 2) -> float:
        """Typical length of a real step of the level, in the p-norm: root of the mean power over held-out episodes; 1 without steps."""
        rows, latent = self.held_out.starts(self.periods[level], 5000), self.held_out.latents[level]
        moved = distance(latent[rows + self.periods[level]], latent[rows], p)
        return max(moved.mean().item() ** (1 / p), 1e-9) if len(rows) else 1.0

    def encode(self, observations: Observations) -> list[Tensor]:
        """Latents of N observations at every level, (N, D_k) each."""
        named = observations if isinstance(observations, Mapping) else {next(iter(self.agent.inputs)): observations}
        inputs = {name: np.asarray(named[name]) for name in self.agent.inputs}
        return self.hierarchy.encode_many(inputs, np.arange(len(next(iter(inputs.values())))))

    def decode(self, level: int, latents: Tensor) -> np.ndarray:
        """The true states of the rows of the data with the nearest latents, (N, D) -> (N, C)."""
        known = torch.cat([part.latents[level] for part in (self.held_out, self.training)])
        states = np.concatenate([self.held_out.states, self.training.states])
        return states[nearest(latents, known)[1].numpy()]


def encode_rows(agent: Agent, dataset: Trajectories, state: Sequence[str]) -> EncodedRows:
    """Evenly spaced episodes, encoded by every level, as many as `ROWS` and `NUMBERS` allow."""
    columns = {name: dataset.column(name) for name in agent.inputs}
    size = sum(math.prod(column.shape[1:]) for column in columns.values())
    rows, left = chosen_rows(dataset, max(1000, min(ROWS, NUMBERS // size)))
    states = JoinedColumn([dataset.column(name) for name in state], DRAWN)[rows]
    latents = agent.hierarchy.encode_many(columns, rows)
    below = torch.as_tensor(np.asarray(dataset.column("action")[rows]))
    return EncodedRows(rows, left, states, latents, _actions(agent.hierarchy, latents, below))


@torch.no_grad()
def _actions(hierarchy: Hierarchy, latents: Sequence[Tensor], below: Tensor) -> list[Tensor]:
    """The action of every level that begins at each row, from the primitive actions (R, A)."""
    found, period = [], 1
    for level, latent in zip(hierarchy.levels, latents, strict=True):
        chunk = np.arange(level.stride) * period
        rows = np.minimum(np.arange(len(latent))[:, None] + chunk, len(latent) - 1)
        below = level.encode_actions(latent.to(hierarchy.device), below[rows].to(hierarchy.device)).cpu()
        period *= level.stride
        found.append(below)
    return found


def chosen_rows(dataset: Trajectories, most: int) -> tuple[np.ndarray, np.ndarray]:
    """About `most` rows of evenly spaced episodes, and how many rows of their episode follow each, (R,) and (R,).

    Long episodes are cut so that there are at least eight, or all.
    """
    total = len(dataset.ep_len)
    number = int(np.clip(most // max(1, int(dataset.ep_len.mean())), min(8, total), total))
    chosen = np.unique(np.linspace(0, total - 1, number).round().astype(int))
    lengths = np.minimum(dataset.ep_len[chosen], max(1, most // number)).astype(np.int64)
    if number == total:
        lengths = np.minimum(dataset.ep_len[chosen], max(most // number, int(dataset.ep_len.mean()))).astype(np.int64)
    rows = [first + np.arange(length) for first, length in zip(dataset.ep_offset[chosen], lengths, strict=True)]
    return np.concatenate(rows).astype(np.int64), np.concatenate([np.arange(n)[::-1] for n in lengths])
