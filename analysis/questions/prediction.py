"""How far do a level's predictions hold, and where on the map are they wrong?"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from hiwm.analysis.figures import INK, log_ticks
from hiwm.analysis.questions.drawing import color, maps, plain, row_of
from hiwm.analysis.questions.study import EncodedRows, Finding, Study
from hiwm.levels.level import Level
from hiwm.training.diagnostics.copy_last import ratio_to_copy_last

WINDOWS = 500  # held-out, for the error by horizon
STEPS = 4000  # single steps, for the map
LONGEST = 12  # steps of a level ahead
CELLS = 28  # of the map, along its width


def prediction(study: Study) -> Finding | None:
    """Open-loop error by horizon, relative to predicting no change, on held-out episodes; single steps on the map."""
    metrics, curves, places, said = {}, {}, {}, []
    for k, period in enumerate(study.periods):
        horizon = min(LONGEST, int(study.held_out.left.max()) // period)
        if not horizon:
            continue
        latents, predicted = open_loop(study, study.held_out, k, horizon, WINDOWS)
        error = _relative_error(study.hierarchy.levels[k], latents, predicted)
        curves[k] = period * (1 + np.arange(horizon)), error
        plans = min(horizon, study.agent.config.level(k).horizon)
        metrics[f"level{k}/open_loop_1"] = float(error[0])
        metrics[f"level{k}/open_loop_{plans}"] = float(error[plans - 1])
        places[k] = _single_steps(study, k)
        wrong = places[k][1]
        metrics[f"level{k}/open_loop_worst_tenth"] = float(
            np.sort(wrong)[-len(wrong) // 10 :].mean() / max(wrong.mean(), 1e-12)
        )
        ahead = f", {error[plans - 1]:.2g} times {plans} steps ahead" if plans > 1 else ""
        said.append(f"Level {k} predicts one step with {error[0]:.2g} times the error of predicting no change{ahead}.")
    if not curves:
        return None
    return Finding("How far predictions hold", " ".join(said), metrics, _draw(study, curves, places), CAPTION)


CAPTION = (
    "Left: prediction loss of open-loop predictions over that of predicting no change, on held-out episodes and their real actions; 1 is "
    "no better than predicting no change. The dot marks the level's planning horizon. Maps: mean length of the error of one step of "
    "the level, in typical steps, at the state where the step begins."
)


@torch.no_grad()
def _relative_error(level: Level, latents: Tensor, predicted: Tensor) -> np.ndarray:
    """Prediction loss after each step over that of predicting no change, (H,); of latents (N, H + 1, D) and predictions (N, H, D)."""
    scale = level.predictor.scale
    latents, predicted = latents.to(scale), predicted.to(scale)
    first = latents[:, :1]
    return np.array([
        ratio_to_copy_last(level.predictor.error, one, torch.cat([first, after], 1))
        for one, after in zip(predicted.split(1, 1), latents[:, 1:].split(1, 1), strict=True)
    ])  # fmt: skip


@torch.no_grad()
def open_loop(study: Study, rows: EncodedRows, level: int, horizon: int, windows: int) -> tuple[Tensor, Tensor]:
    """Latents of windows of real steps, (N, H + 1, D), and those predicted from the first one, (N, H, D)."""
    period = study.periods[level]
    starts = rows.starts(horizon * period, windows)
    ahead = starts[:, None] + np.arange(horizon + 1) * period
    latents, actions = rows.latents[level][ahead], rows.actions[level][ahead[:, :-1]]
    predictor, device = study.hierarchy.levels[level], study.hierarchy.device
    return latents, predictor.rollout(latents[:, 0].to(device), actions.to(device)).cpu()


def _single_steps(study: Study, level: int) -> tuple[np.ndarray, np.ndarray]:
    """States where real steps begin, (N, C), and the length of their prediction error, in typical steps, (N,)."""
    starts = study.held_out.starts(study.periods[level], STEPS)
    latents, predicted = open_loop(study, study.held_out, level, 1, STEPS)
    error = (predicted - latents[:, 1:]).norm(dim=2)[:, 0] / study.step_length(level)
    return study.held_out.states[starts], error.numpy()


def _draw(
    study: Study, curves: dict[int, tuple[np.ndarray, np.ndarray]], places: dict[int, tuple[np.ndarray, np.ndarray]]
) -> Figure:
    shown = [*places] if study.on_map else []
    figure, (axes,) = row_of(1 + len(shown), 3.6, 3.6)
    for k, (ahead, error) in curves.items():
        axes[0].plot(ahead, error, color=color(k), lw=1.5, label=f"level {k}")
        plans = min(len(ahead), study.agent.config.level(k).horizon) - 1
        axes[0].plot(ahead[plans], error[plans], "o", color=color(k))
    axes[0].plot([], [], "o", color="0.4", label="planning horizon")
    axes[0].axhline(1, color=INK, lw=0.7, ls="--", label="predicting no change")
    axes[0].set(xscale="log", yscale="log", xlabel="environment steps ahead", ylabel="error / error of no change")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=6, fontsize=8, frameon=False)
    log_ticks(axes[0].xaxis, axes[0].yaxis)
    plain(axes[0])
    maps(study, axes[1:])
    most = max([1e-9, *(np.percentile(wrong, 95) for _, wrong in places.values())])  # one range for all levels
    for each, k in zip(axes[1:], shown, strict=True):
        states, wrong = places[k]
        cells = each.hexbin(
            *states[:, :2].T,
            C=wrong,
            gridsize=CELLS,
            cmap="magma_r",
            vmin=0,
            vmax=most,
            lw=0.1,
        )
        each.set_title(f"level {k}: error of one step", fontsize=9)
        if each is axes[-1]:
            figure.colorbar(cells, ax=axes[1:], shrink=0.75, extend="max", label="typical steps of the level")
    return figure
