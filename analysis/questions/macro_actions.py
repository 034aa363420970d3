"""What does each dimension of a macro-action do?"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from hiwm.analysis.questions.drawing import arrows, listed, magnification, maps, row_of, titled
from hiwm.analysis.questions.study import Finding, Study

STATES = 200  # typical ones
ARROWS = 40  # of them that are drawn
DEVIATIONS = 2.0  # how far a dimension is varied, in its standard deviations
MOST = 5  # dimensions in the figure
CONSISTENT = 0.7
PLUS, MINUS = "#009e73", "#d55e00"


def macro_actions(study: Study) -> Finding | None:
    """Displacement of the decoded state when one dimension of an action is varied and the others keep their mean."""
    if not study.on_map:
        return None
    effects = {
        k: effect(study, k) for k in range(study.num_levels) if len(study.held_out.starts(study.periods[k], 2)) == 2
    }
    if not effects:
        return None
    metrics, said = {}, []
    for k, (_, ends) in effects.items():
        moved = ends[:, 1] - ends[:, 0]  # (dimensions, states, 2)
        length = np.linalg.norm(moved, axis=2)
        consistent = np.linalg.norm(moved.sum(1), axis=1) / np.maximum(length.sum(1), 1e-9)
        for i, (size, share) in enumerate(zip(length.mean(1), consistent, strict=True)):
            metrics[f"level{k}/macro{i}_displacement"] = float(size)
            metrics[f"level{k}/macro{i}_consistency"] = float(share)
        kind = _kind(study, k)
        steady = [
            f"{kind} {i} moves along {_axis(moved[i].sum(0))}"
            for i in np.flatnonzero(consistent >= CONSISTENT).tolist()
        ]
        what = listed(steady) if steady else f"no {kind} moves the same way everywhere"
        said.append(
            f"Level {k}: {what} (the strongest moves the state by {length.mean(1).max():.3g}, in the units of the data)."
        )
    return Finding(
        "What each dimension of an action does", " ".join(said), metrics, _draw(study, effects),
        f"Where one step of the level leads from typical states, if one dimension of its action is {DEVIATIONS:g} standard deviations "
        "above (green) or below (orange) its mean and all others are at their mean. An arrow ends at the real state with the nearest "
        "latent. Where primitive actions are discrete, those of level 0 are shown one by one. Consistency is 1 if a dimension, "
        "or an action, moves the state in the same direction everywhere, and near 0 if its meaning depends on the state.",
    )  # fmt: skip


@torch.no_grad()
def effect(study: Study, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Typical states (N, 2), and the decoded states after one step with each dimension low and high, (A, 2, N, 2).

    For each discrete action, these are the states themselves and those after it.
    """
    rows, part = study.held_out, study.hierarchy.levels[level]
    starts = rows.starts(study.periods[level], 4 * STATES)
    chosen = starts[_spread(rows.states[starts, :2], STATES)]
    real = rows.actions[level][rows.starts(study.periods[level], 5000)]
    mean, std = real.mean(0), real.std(0)
    latent = rows.latents[level][chosen].to(study.hierarchy.device)

    def after(action: Tensor) -> np.ndarray:
        return study.decode(level, part.predict(latent, action.expand(len(latent), -1).to(latent.device)).cpu())[:, :2]

    if _kind(study, level) == "action":
        actions = torch.eye(len(study.agent.spec.action_low)).repeat(1, part.stride)
        return rows.states[chosen, :2], np.array([[rows.states[chosen, :2], after(action)] for action in actions])
    shift = DEVIATIONS * torch.diag(std)
    ends = [[after(mean - each), after(mean + each)] for each in shift]
    return rows.states[chosen, :2], np.array(ends)


def _spread(points: np.ndarray, number: int) -> np.ndarray:
    """Indices of points that are spread over all of them, by farthest-point sampling, first the most distant ones."""
    chosen, far = [0], np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < min(number, len(points)):
        chosen.append(int(far.argmax()))
        far = np.minimum(far, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)


def _kind(study: Study, level: int) -> str:
    """What is varied at a level."""
    return "action" if level == 0 and study.agent.spec.discrete else "dimension"


def _axis(moved: np.ndarray) -> str:
    share = np.abs(moved) / max(np.linalg.norm(moved), 1e-9)
    return "x" if share[0] > 0.92 else "y" if share[1] > 0.92 else "a diagonal"


def _draw(study: Study, effects: dict[int, tuple[np.ndarray, np.ndarray]]) -> Figure:
    columns = min(MOST, max(len(ends) for _, ends in effects.values()))
    figure, grid = row_of(columns, 3.0, 2.9, rows=len(effects))
    for axes, (k, (starts, ends)) in zip(grid, effects.items(), strict=True):
        moved = (ends - starts)[:, :, :ARROWS]  # (dimensions, side, states, 2)
        factor = magnification(study, moved)
        for i, each in enumerate(axes):
            if i >= len(ends):
                each.set_axis_off()
                continue
            maps(study, [each])
            for side, hue in ((0, MINUS), (1, PLUS)):
                arrows(each, starts[:ARROWS], moved[i, side], hue, factor)
            each.plot(*starts[:ARROWS].T, ".", ms=3, color="0.2", zorder=4)
            each.set_title(titled(f"level {k}, {_kind(study, k)} {i}", factor), fontsize=9)
    first = grid[0][0]
    first.plot([], [], ".", ms=3, color="0.2", label="where the step begins")
    after = " or after the action" if _kind(study, 0) == "action" else ""
    first.plot([], [], color=PLUS, lw=2, label=f"{DEVIATIONS:g} standard deviations above the mean{after}")
    first.plot([], [], color=MINUS, lw=2, label=f"{DEVIATIONS:g} standard deviations below the mean")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure
