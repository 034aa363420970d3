"""What is fitted to the levels once they are trained: everything planning needs beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from hiwm.config import Config
from hiwm.console import say
from hiwm.data.store import Trajectories
from hiwm.envs.captions import Caption
from hiwm.hierarchy import Hierarchy
from hiwm.planning.calibration import NOMINAL, Calibration, fit_calibration
from hiwm.planning.cost_to_go import AHEAD, CostToGo, fit_cost_to_go
from hiwm.planning.fitted import Fitted
from hiwm.planning.graph.landmarks import LandmarkGraph, build_graph
from hiwm.planning.macros import MacroActions, build_macros
from hiwm.planning.prior import MacroPrior, fit_prior
from hiwm.planning.readout import Readout, fit_readout, goal_part
from hiwm.planning.text import TextHead, fit_texts
from hiwm.training.fingerprint import fingerprint


@dataclass(frozen=True)
class Fitter:
    """One run's fits; each says how good it is.

    Args:
        config: of the experiment.
        dataset: what the levels were trained on.
        hierarchy: the trained levels.
        latents: of each level, cached for the whole dataset.
        device: where to fit.
    """

    config: Config
    dataset: Trajectories
    hierarchy: Hierarchy
    latents: Sequence[Trajectories]
    device: torch.device

    def all(self, captions: Sequence[Caption]) -> Fitted:
        """Everything the config asks for; `captions` are what can be said of the data, none where goals have no words."""
        return Fitted(
            self.graphs(),
            self.macros(),
            self.readouts(),
            self.texts(captions),
            self.calibrations(),
            self.priors(),
            self.costs(),
        )

    def graphs(self) -> list[LandmarkGraph]:
        """The landmark graph of every level."""
        actions, config = self.dataset.column("action"), self.config
        graphs = [build_graph(level, actions, config.graph, config.seed) for level in self.latents]
        for k, graph in enumerate(graphs):
            say(f"landmark graph of level {k}: {graph.data.num_nodes:,} nodes, {graph.data.num_edges:,} edges")
        return graphs

    def macros(self) -> list[MacroActions]:
        """Real actions of every level."""
        periods = self.hierarchy.periods
        return [
            build_macros(level, period, self.config.macros, self.config.seed).to(self.device)
            for level, period in zip(self.latents, periods, strict=True)
        ]

    def readouts(self) -> list[Readout]:
        """What goals are about, read from every level; none where they are whole observations."""
        goal = self.config.goal
        if not goal.columns:
            return []
        part = goal_part(self.dataset, goal.columns)
        readouts = []
        for k, (level, period) in enumerate(zip(self.hierarchy.levels, self.hierarchy.periods, strict=True)):
            fit = partial(fit_readout, level.predictor, self.latents[k], period, part, goal)
            readout = self._once(k, "readout", Readout, asdict(goal), fit)
            told, foreseen = (
                ", ".join(f"{error:.3g}" for error in errors.tolist()) for errors in (readout.error, readout.foreseen)
            )
            say(
                f"readout of {', '.join(goal.columns)} from level {k}: root mean square error {told}; of what is predicted "
                f"{period} steps ahead {foreseen}"
            )
            readouts.append(readout)
        return readouts

    def texts(self, captions: Sequence[Caption]) -> list[TextHead]:
        """Which latents of every level captions are true of; none without captions."""
        if not self.config.text.learn:
            return []
        heads = fit_texts(self.latents, captions, self.config.text, **self._how)
        told = ", ".join(f"{head.precision.item():.2f}" for head in heads)
        say(f"{len(captions)} captions: precision of each level's best latents, wordings and episodes held out: {told}")
        return heads

    def calibrations(self) -> list[Calibration | None]:
        """What the disagreement of each level's ensemble is worth; None for levels without one."""
        found = []
        for k, (level, period) in enumerate(zip(self.hierarchy.levels, self.hierarchy.periods, strict=True)):
            calibration = fit_calibration(level, self.latents[k], period, self.config.dataset.validation)
            found.append(calibration)
            if calibration is not None:
                raw, scaled = calibration.raw.mean(0), calibration.scaled.mean(0)
                covered = ", ".join(
                    f"{100 * before:.0f} -> {100 * after:.0f} of {100 * share:.0f}"
                    for share, before, after in zip(NOMINAL, raw, scaled, strict=True)
                )
                say(
                    f"ensemble of level {k}, {calibration.steps} steps ahead: squared error {calibration.scale.min():.2g} to "
                    f"{calibration.scale.max():.2g} times the disagreement; intervals hold {covered} %; rank correlation "
                    f"{calibration.spearman.mean():.2f}"
                )
            elif level.predictor.num_members > 1:
                say(f"ensemble of level {k}: not calibrated, for fewer than two held-out episodes hold its steps")
        return found

    def priors(self) -> list[MacroPrior | None]:
        """Which macro-actions occur, of the levels that are to learn it; None for the others."""
        priors: list[MacroPrior | None] = [None] * len(self.hierarchy)
        settings = asdict(self.config.prior) | {"levels": None}
        for k in self.config.prior.levels:
            fit = partial(fit_prior, self.latents[k], self.hierarchy.periods[k], self.config.prior)
            prior = self._once(k, "prior", MacroPrior, settings, fit)
            say(
                f"prior of level {k}: its held-out loss is {prior.relative_loss:.2f} of what N(0, I) in every state would have"
            )
            priors[k] = prior
        return priors

    def costs(self) -> list[CostToGo | None]:
        """How far goals are, of the levels that are to learn it; None for the others."""
        costs: list[CostToGo | None] = [None] * len(self.hierarchy)
        columns, config = list(self.config.goal.columns), self.config.cost_to_go
        settings = asdict(config) | {"levels": None, "columns": columns}
        for k in config.levels:
            part = goal_part(self.dataset, columns)
            fit = partial(fit_cost_to_go, self.latents[k], part, self.hierarchy.periods[k], config)
            cost = self._once(k, "cost_to_go", CostToGo, settings, fit)
            steps, ahead = (", ".join(f"{x:.3g}" for x in numbers) for numbers in (AHEAD, cost.ahead.tolist()))
            say(f"cost to go of level {k}: to where held-out episodes came in {steps} steps, {ahead}")
            costs[k] = cost
        return costs

    @property
    def _how(self) -> dict[str, Any]:
        """What every fit of a network is told."""
        return {"validation": self.config.dataset.validation, "seed": self.config.seed, "device": self.device}

    def _once(self, k: int, name: str, kind: Any, settings: Mapping[str, Any], fit: Callable[..., Any]) -> Any:
        """A network of level k: fitted now and kept, or what an earlier run with the same level and settings kept."""
        config = self.config
        identity = fingerprint([self.hierarchy.specs[k].fingerprint, settings, config.dataset.validation, config.seed])
        path = config.folder / "fitted" / f"{name}{k}-{identity}.safetensors"
        if not path.exists():
            entry = fit(**self._how)
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_suffix(".tmp")
            entry.save(temporary)
            temporary.replace(path)
        return kind.load(path, str(self.hierarchy.device))
