"""Is a level surprised by what cannot happen (violation of expectation)?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score
from torch import Tensor

from hiwm.analysis.questions.drawing import plain, row_of
from hiwm.analysis.questions.study import Finding, Study

STEPS = 1000  # real steps of every level
FEWEST = 20  # violations of a kind
FAR = 0.95  # a teleport goes farther than this share of the real steps
DETOUR = 1.5  # the true path around a wall takes at least this many steps of the level
POOL, TRIES = 3000, 30  # states that may lie behind a wall, and how many of the near ones are tried for each real step
MARKS = {"teleport": "o", "wall": "s", "colour": "^"}
HUES = {"teleport": "#d55e00", "wall": "#0072b2", "colour": "#009e73"}


def surprise(study: Study) -> Finding | None:
    """AUROC of the prediction error: real steps of held-out episodes against violated ones."""
    errors: dict[int, dict[str, np.ndarray]] = {}
    steps: dict[int, dict[str, np.ndarray]] = {}
    for k, period in enumerate(study.periods):
        starts = study.held_out.starts(period, STEPS)
        if len(starts) >= FEWEST:
            errors[k], steps[k] = _errors(study, k, starts)
    errors = {k: of for k, of in errors.items() if len(of) > 1}  # without any violation, nothing is compared
    if not errors:
        return None
    metrics = {
        f"level{k}/surprise_auroc_{kind}": auroc(of["real"][steps[k][kind]], of[kind])
        for k, of in errors.items()
        for kind in of
        if kind != "real"
    }
    said = [
        f"level {k}: "
        + ", ".join(f"{metrics[f'level{k}/surprise_auroc_{kind}']:.3f} ({kind})" for kind in of if kind != "real")
        for k, of in errors.items()
    ]
    return Finding(
        "Surprise", f"A violated step has a larger prediction error than a real one with a probability (AUROC) of: {'; '.join(said)}.",
        metrics, _draw(errors, metrics),
        "Prediction errors of real steps of held-out episodes, and of the same steps with another end. Teleport: the agent is at a state "
        f"that is farther away than {100 * FAR:.0f} % of the steps of the level lead. Wall: it is no farther away than such a step, but "
        f"behind a wall: the true path takes at least {DETOUR:g} times as long as the step. Colour: red and blue are swapped in the image. Left: 1 means that every violated "
        "step surprises the level more than every real one, 0.5 that it does not notice.",
    )  # fmt: skip


def auroc(real: np.ndarray, violated: np.ndarray) -> float:
    """Probability that a violated step has a larger error than a real one; errors that are equal count half."""
    labels = np.concatenate([np.zeros(len(real)), np.ones(len(violated))])
    return float(roc_auc_score(labels, np.concatenate([real, violated])))


@torch.no_grad()
def _errors(study: Study, level: int, starts: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Squared prediction errors of a level, of real steps and of each kind of violation, and which of the real steps it violates."""
    rows, part, device = study.held_out, study.hierarchy.levels[level], study.hierarchy.device
    latent, action = rows.latents[level][starts].to(device), rows.actions[level][starts].to(device)
    predicted = part.rollout(latent, action.unsqueeze(1))[:, 0].cpu()
    ends = {"real": (np.arange(len(starts)), rows.latents[level][starts + study.periods[level]])}
    ends |= _teleports(study, level, starts) | _crossings(study, level, starts) | _swapped(study, level, starts)
    length = study.step_length(level)
    ends = {kind: end for kind, end in ends.items() if len(end[0]) >= FEWEST}
    errors = {kind: ((predicted[which] - end) / length).square().sum(1).numpy() for kind, (which, end) in ends.items()}
    return errors, {kind: which for kind, (which, _) in ends.items()}


Ends = dict[str, tuple[np.ndarray, Tensor]]


def _teleports(study: Study, level: int, starts: np.ndarray) -> Ends:
    """Kind -> which of the steps are violated, and the latents where they end then."""
    rows, after = study.held_out, starts + study.periods[level]
    to = np.random.default_rng(level).permutation(len(rows.rows))[: len(starts)]
    to = np.resize(to, len(starts))
    which = np.flatnonzero(_apart(study, starts, to) > np.quantile(_apart(study, starts, after), FAR))
    return {"teleport": (which, _ended_at(study, level, after[which], to[which]))}


def _crossings(study: Study, level: int, starts: np.ndarray) -> Ends:
    """Ends behind a wall; none without a map whose paths are known."""
    rows, after, oracle = study.held_out, starts + study.periods[level], study.oracle
    if oracle is None or not study.on_map:
        return {}
    reach = np.quantile(_apart(study, starts, after), FAR)
    pool, rng = np.random.default_rng(level).permutation(len(rows.rows))[:POOL], np.random.default_rng(1)
    near = np.linalg.norm(rows.states[starts, None, :2] - rows.states[None, pool, :2], axis=2) <= reach
    step, other = np.nonzero(near & (rng.random(near.shape) < TRIES / np.maximum(1, near.sum(1, keepdims=True))))
    steps = oracle.shortest_steps(
        study.observations(rows.rows[starts[step]]), study.observations(rows.rows[pool[other]])
    )
    behind = np.flatnonzero(np.isfinite(steps) & (steps >= DETOUR * study.periods[level]))
    step, first = np.unique(step[behind], return_index=True)
    return {"wall": (step, _ended_at(study, level, after[step], pool[other[behind[first]]]))}


def _apart(study: Study, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of the positions of held-out rows, or of their states where there is no map, (N,)."""
    states = study.held_out.states[:, :2] if study.on_map else study.held_out.states
    return np.linalg.norm(states[a] - states[b], axis=1)


def _ended_at(study: Study, level: int, after: np.ndarray, to: np.ndarray) -> Tensor:
    """Latents of the states `to`; if the environment can tell, of observations `after` that differ only in where the agent is."""
    rows = study.held_out
    if study.oracle is None or not len(to):
        return rows.latents[level][to]
    there = study.oracle.along(study.observations(rows.rows[after]), study.observations(rows.rows[to]), np.inf)
    return study.encode(there)[level]


def _swapped(study: Study, level: int, starts: np.ndarray) -> Ends:
    """The real ends, with the first and the last colour of the images swapped; none without images in colour."""
    columns = {name: study.dataset.column(name) for name in study.agent.inputs}
    images = [name for name, x in columns.items() if x.ndim == 4 and 3 in (x.shape[1], x.shape[3])]
    if not images:
        return {}
    rows = study.held_out.rows[starts + study.periods[level]]
    inputs = {name: np.asarray(column[rows]) for name, column in columns.items()}
    for name in images:
        axis = 3 if inputs[name].shape[3] == 3 else 1
        inputs[name] = np.ascontiguousarray(np.flip(inputs[name], axis))
    return {"colour": (np.arange(len(starts)), study.encode(inputs)[level])}


def _draw(errors: Mapping[int, Mapping[str, np.ndarray]], metrics: Mapping[str, float]) -> Figure:
    figure, (axes,) = row_of(1 + len(errors), 3.4, 3.2)
    kinds = [kind for kind in MARKS if any(kind in of for of in errors.values())]
    for i, kind in enumerate(kinds):
        for k, of in errors.items():
            if kind in of:
                x, y = k + 0.16 * (i - (len(kinds) - 1) / 2), metrics[f"level{k}/surprise_auroc_{kind}"]
                axes[0].plot(x, y, MARKS[kind], ms=8, color=HUES[kind])
        axes[0].plot([], [], MARKS[kind], color=HUES[kind], ms=7, label=kind)
    axes[0].axhline(0.5, color="0.5", lw=0.8, ls="--", label="not noticed")
    axes[0].set_xticks([*errors], [f"level {k}" for k in errors])
    axes[0].margins(x=0.25)
    axes[0].set(ylabel="AUROC", ylim=(0.35, 1.03))
    axes[0].legend(frameon=False, fontsize=9, loc="lower left")
    logs_of = {k: {kind: np.log10(np.maximum(x, 1e-12)) for kind, x in of.items()} for k, of in errors.items()}
    every = np.concatenate([x for logs in logs_of.values() for x in logs.values()])
    bins = np.linspace(every.min(), every.max() + 0.1, 60)  # the same for all levels
    for each, (k, logs) in zip(axes[1:], logs_of.items(), strict=True):
        each.hist(logs["real"], bins, density=True, color="0.65", label="real")
        for kind, style in zip(kinds, ("-", "--", ":"), strict=False):
            if kind in logs:
                each.hist(
                    logs[kind], bins, density=True, histtype="step", color=HUES[kind], ls=style, lw=1.6, label=kind
                )
        each.set(xlabel="log10 of the error (squared typical steps)", ylabel="density", xlim=(bins[0], bins[-1]))
        each.set_title(f"level {k}", fontsize=10)
        each.legend(frameon=False, fontsize=8, loc="upper left")
    plain(*axes)
    return figure
