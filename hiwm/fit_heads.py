"""Fits all heads of a trained hierarchy; each says how good it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch

from hiwm.config import Config
from hiwm.console import say
from hiwm.data.store import Trajectories
from hiwm.envs.captions import Caption
from hiwm.heads.action_bank import ActionBank, build_action_bank
from hiwm.heads.action_prior import ActionPrior, fit_action_prior
from hiwm.heads.calibration import NOMINAL, Calibration, fit_calibration
from hiwm.heads.head import Head
from hiwm.heads.heads import Heads
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
        config: of the experiment.
        dataset: what the levels were trained on.
        hierarchy: the trained levels.
        latents: of each level, cached for the whole dataset.
        device: where to fit.
        captions: captions of the data; none where goals are not given in words.
    """
    return Heads(
        action_banks=_action_banks(config, hierarchy, latents, device),
        readouts=_readouts(config, dataset, hierarchy, latents, device),
        texts=_texts(config, latents, device, captions),
        calibrations=_calibrations(config, hierarchy, latents),
        action_priors=_action_priors(config, hierarchy, latents, device),
        values=_values(config, dataset, hierarchy, latents, device),
    )


def _action_banks(
    config: Config, hierarchy: Hierarchy, latents: Sequence[Trajectories], device: torch.device
) -> list[ActionBank]:
    """Real actions of every level."""
    return [
        build_action_bank(level, period, config.action_bank, config.seed).to(device)
        for level, period in zip(latents, hierarchy.periods, strict=True)
    ]


def _readouts(
    config: Config, dataset: Trajectories, hierarchy: Hierarchy, latents: Sequence[Trajectories], device: torch.device
) -> list[StateReadout]:
    """Readouts of every level; none where goals are whole observations."""
    goal = config.goal
    if not goal.columns:
        return []
    part = goal_part(dataset, goal.columns)
    readouts = []
    for k, (level, period) in enumerate(zip(hierarchy.levels, hierarchy.periods, strict=True)):
        fit = partial(fit_state_readout, level.predictor, latents[k], period, part, goal)
        readout = _fit_once(config, hierarchy, device, k, StateReadout, "state_readout", goal.as_dict(), fit)
        error, prediction_error = (_numbers(errors.tolist()) for errors in (readout.error, readout.prediction_error))
        say(
            f"readout of {', '.join(goal.columns)} from level {k}: root mean square error {error}; {prediction_error} for "
            f"latents predicted {period} steps ahead"
        )
        readouts.append(readout)
    return readouts


def _texts(
    config: Config, latents: Sequence[Trajectories], device: torch.device, captions: Sequence[Caption]
) -> list[TextHead]:
    """Text heads of every level; none where goals are not given in words."""
    if not config.text.learn:
        return []
    heads = fit_texts(latents, captions, config.text, **_how(config, device))
    precision = ", ".join(f"{head.precision.item():.2f}" for head in heads)
    say(
        f"{len(captions)} captions: precision of each level's best latents, on held-out wordings and episodes: {precision}"
    )
    return heads


def _calibrations(config: Config, hierarchy: Hierarchy, latents: Sequence[Trajectories]) -> list[Calibration | None]:
    """Calibrations of the levels that have an ensemble."""
    found = []
    for k, (level, period) in enumerate(zip(hierarchy.levels, hierarchy.periods, strict=True)):
        calibration = fit_calibration(level, latents[k], period, config.dataset.validation)
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


def _action_priors(
    config: Config, hierarchy: Hierarchy, latents: Sequence[Trajectories], device: torch.device
) -> list[ActionPrior | None]:
    """Action priors of the levels that are to learn one."""
    priors: list[ActionPrior | None] = [None] * len(hierarchy)
    settings = config.action_prior.as_dict() | {"levels": None}
    for k in config.action_prior.levels:
        fit = partial(fit_action_prior, latents[k], hierarchy.periods[k], config.action_prior)
        prior = _fit_once(config, hierarchy, device, k, ActionPrior, "action_prior", settings, fit)
        say(
            f"action prior of level {k}: its held-out loss is {prior.relative_loss:.2f} of that of N(0, I) in every state"
        )
        priors[k] = prior
    return priors


def _values(
    config: Config, dataset: Trajectories, hierarchy: Hierarchy, latents: Sequence[Trajectories], device: torch.device
) -> list[Value | None]:
    """Values of the levels that are to learn one."""
    values: list[Value | None] = [None] * len(hierarchy)
    columns = config.goal.columns
    settings = config.value.as_dict() | {"levels": None, "columns": columns}
    for k in config.value.levels:
        part = goal_part(dataset, columns)
        fit = partial(fit_value, latents[k], part, hierarchy.periods[k], config.value)
        value = _fit_once(config, hierarchy, device, k, Value, "value", settings, fit)
        say(
            f"value of level {k}: predicts {_numbers(value.ahead.tolist())} steps to states that held-out episodes reached in "
            f"{_numbers(AHEAD)}"
        )
        values[k] = value
    return values


def _fit_once(
    config: Config,
    hierarchy: Hierarchy,
    device: torch.device,
    k: int,
    kind: type[H],
    name: str,
    settings: Mapping[str, Any],
    fit: Callable[..., H],
) -> H:
    """Fit a head of level k and keep it, or load it if an earlier run kept one of the same level and settings."""
    identity = fingerprint([hierarchy.specs[k].fingerprint, settings, config.dataset.validation, config.seed])
    path = config.folder / "heads" / f"{name}{k}-{identity}.safetensors"
    if not path.exists():
        head = fit(**_how(config, device))
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        head.save(temporary)
        temporary.replace(path)
    return kind.load(path, str(hierarchy.device))


def _how(config: Config, device: torch.device) -> dict[str, Any]:
    """Arguments that every fit of a network takes."""
    return {"validation": config.dataset.validation, "seed": config.seed, "device": device}


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
