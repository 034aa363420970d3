"""Fits all heads of a trained hierarchy and prints how accurate each one is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from hiwm.config import Config
from hiwm.console import say
from hiwm.data.store import Trajectories
from hiwm.data.views import JoinedColumn
from hiwm.envs.captions import Caption
from hiwm.heads.action_bank import ActionBank, build_action_bank
from hiwm.heads.action_prior import ActionPrior, fit_action_prior
from hiwm.heads.calibration import NOMINAL, Calibration, fit_calibration
from hiwm.heads.head import Head
from hiwm.heads.heads import Heads
from hiwm.heads.optimize import FitData
from hiwm.heads.state_readout import StateReadout, fit_state_readout, goal_part
from hiwm.heads.text import TextHead, fit_texts
from hiwm.heads.value import AHEAD, Value, fit_value
from hiwm.hierarchy import Hierarchy
from hiwm.training.fingerprint import fingerprint

H = TypeVar("H", bound=Head)


def fit_heads(
    config: Config,
    dataset: Trajectories,
    hierarchy: Hierarchy,
    latents: Sequence[Trajectories],
    device: torch.device,
    captions: Sequence[Caption] = (),
) -> Heads:
    """Fit every head that the config asks for.

    Args:
        config: configuration of the experiment.
        dataset: the data that the levels were trained on.
        hierarchy: the trained levels.
        latents: latents of each level, cached for the whole dataset.
        device: where to fit.
        captions: captions of the data; none if goals are not given in words.
    """
    trained = _Trained(config, dataset, hierarchy, latents, device)
    return Heads(
        action_banks=_action_banks(trained),
        readouts=_readouts(trained),
        texts=_texts(trained, captions),
        calibrations=_calibrations(trained),
        action_priors=_action_priors(trained),
        values=_values(trained),
    )


@dataclass(frozen=True)
class _Trained:
    """Everything that heads are fitted to; arguments as in `fit_heads`."""

    config: Config
    dataset: Trajectories
    hierarchy: Hierarchy
    latents: Sequence[Trajectories]
    device: torch.device

    def data(self, k: int) -> FitData:
        """The latents of level k, split for a fit."""
        validation = self.config.dataset.validation
        return FitData(self.latents[k], validation=validation, seed=self.config.seed, device=self.device)

    def goal_part(self) -> JoinedColumn:
        """The part of the state that goals are about, (N, G)."""
        return goal_part(self.dataset, self.config.goal.columns)

    def fit_once(self, kind: type[H], k: int, name: str, settings: Mapping[str, Any], fit: Callable[[FitData], H]) -> H:
        """Fit a head of level k and save it, or load it if an earlier run saved one of the same level and settings."""
        config, level = self.config, self.hierarchy.specs[k].fingerprint
        identity = fingerprint([level, settings, config.dataset.validation, config.seed])
        path = config.folder / "heads" / f"{name}{k}-{identity}.safetensors"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            fit(self.data(k)).save(path)
        return kind.load(path, str(self.hierarchy.device))


def _action_banks(trained: _Trained) -> list[ActionBank]:
    """Real actions of every level."""
    config = trained.config
    return [
        build_action_bank(level, period, config.action_bank, config.seed).to(trained.device)
        for level, period in zip(trained.latents, trained.hierarchy.periods, strict=True)
    ]


def _readouts(trained: _Trained) -> list[StateReadout]:
    """State readouts of every level; none if goals are whole observations."""
    goal = trained.config.goal
    if not goal.columns:
        return []
    part = trained.goal_part()
    readouts = []
    for k, (level, period) in enumerate(zip(trained.hierarchy.levels, trained.hierarchy.periods, strict=True)):
        readout = trained.fit_once(
            StateReadout, k, "state_readout", goal.as_dict(),
            lambda data, level=level, period=period: fit_state_readout(data, level.predictor, period, part, goal),
        )  # fmt: skip
        error, prediction_error = (_numbers(errors.tolist()) for errors in (readout.error, readout.prediction_error))
        say(
            f"readout of {', '.join(goal.columns)} from level {k}: root mean square error {error}; {prediction_error} for "
            f"latents predicted {period} steps ahead"
        )
        readouts.append(readout)
    return readouts


def _texts(trained: _Trained, captions: Sequence[Caption]) -> list[TextHead]:
    """Text heads of every level; none if goals are not given in words."""
    if not trained.config.text.learn:
        return []
    heads = fit_texts([trained.data(k) for k in range(len(trained.hierarchy))], captions, trained.config.text)
    precision = ", ".join(f"{head.precision.item():.2f}" for head in heads)
    say(
        f"{len(captions)} captions: precision of each level's best latents, on held-out wordings and episodes: {precision}"
    )
    return heads


def _calibrations(trained: _Trained) -> list[Calibration | None]:
    """Calibrations of the levels that have an ensemble."""
    found = []
    for k, (level, period) in enumerate(zip(trained.hierarchy.levels, trained.hierarchy.periods, strict=True)):
        calibration = fit_calibration(level, trained.latents[k], period, trained.config.dataset.validation)
        found.append(calibration)
        if calibration is not None:
            raw, scaled = calibration.raw.mean(0), calibration.scaled.mean(0)
            covered = ", ".join(
                f"{100 * before:.0f} -> {100 * after:.0f} of {100 * share:.0f}"
                for share, before, after in zip(NOMINAL, raw, scaled, strict=True)
            )
            say(
                f"ensemble of level {k}, {calibration.steps} steps ahead: the squared error is {calibration.scale.min():.2g} to "
                f"{calibration.scale.max():.2g} times the disagreement; intervals cover {covered} %; rank correlation "
                f"{calibration.spearman.mean():.2f}"
            )
        elif level.predictor.num_members > 1:
            say(f"ensemble of level {k}: not calibrated, because fewer than two held-out episodes are long enough")
    return found


def _action_priors(trained: _Trained) -> list[ActionPrior | None]:
    """Action priors of the levels in `action_prior.levels`."""
    config = trained.config.action_prior
    priors: list[ActionPrior | None] = [None] * len(trained.hierarchy)
    for k in config.levels:
        prior = trained.fit_once(
            ActionPrior, k, "action_prior", config.as_dict() | {"levels": None},
            lambda data, k=k: fit_action_prior(data, trained.hierarchy.periods[k], config),
        )  # fmt: skip
        say(
            f"action prior of level {k}: its held-out loss is {prior.relative_loss:.2f} of that of N(0, I) in every state"
        )
        priors[k] = prior
    return priors


def _values(trained: _Trained) -> list[Value | None]:
    """Value heads of the levels in `value.levels`."""
    config = trained.config.value
    values: list[Value | None] = [None] * len(trained.hierarchy)
    settings = config.as_dict() | {"levels": None, "columns": trained.config.goal.columns}
    for k in config.levels:
        value = trained.fit_once(
            Value, k, "value", settings,
            lambda data, k=k: fit_value(data, trained.goal_part(), trained.hierarchy.periods[k], config),
        )  # fmt: skip
        say(
            f"value of level {k}: predicts {_numbers(value.ahead.tolist())} steps to states that held-out episodes reached in "
            f"{_numbers(AHEAD)}"
        )
        values[k] = value
    return values


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
