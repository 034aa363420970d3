"""Which share of a plan's steps do the data support?

A search exploits its model: it may find a step that the level predicts and that no episode makes, for instance through a wall.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from hiwm.analysis.questions.drawing import arrows, color, magnification, maps, plain, row_of, titled
from hiwm.analysis.questions.study import EncodedRows, Finding, Study
from hiwm.console import say
from hiwm.levels.landmarks import nearest

PLANS = 100
KNOWN = 20_000  # real steps of the training episodes
TESTED = 2_000  # real steps of held-out episodes, which set the threshold
LIMIT = 0.99  # share of them that is supported
START = 0.5  # weight of the distance between the starts of two steps, against that between their displacements
ARROWS = 40
SUPPORTED, IMPOSSIBLE = "0.35", "#b3261e"


@dataclass(frozen=True)
class Plans:
    """The best plans of one level from N random states to random goals.

    Args:
        start: latent where each begins, (N, D).
        predicted: latents after each step, (N, H, D).
        impossible: steps that no episode of the data makes, (N, H).
    """

    start: Tensor
    predicted: Tensor
    impossible: np.ndarray


def support(study: Study) -> Finding | None:
    """Share of first steps, and of plans with any step, that no episode of the data makes."""
    plans = best_plans(study)
    if not plans:
        return None
    metrics, said = {}, []
    for k, of_level in plans.items():
        first, anywhere = of_level.impossible[:, 0].mean(), of_level.impossible.any(1).mean()
        metrics[f"level{k}/impossible_first_step"] = float(first)
        metrics[f"level{k}/impossible_any_step"] = float(anywhere)
        steps = of_level.impossible.shape[1]
        said.append(
            f"level {k}: {100 * first:.0f} % of the first steps, {100 * anywhere:.0f} % of the plans of {steps} steps"
        )
    return Finding(
        "Steps that no episode makes", f"Impossible steps in the best plans: {'; '.join(said)}.", metrics, _draw(study, plans),
        f"The best plans of each level, from {PLANS} held-out states to other held-out states. A predicted step from z to z' is impossible "
        f"if it is less like the most similar real step of the training episodes than {100 * LIMIT:g} % of the real steps of held-out "
        f"episodes are, so that about {100 * (1 - LIMIT):.0f} % of real steps count as impossible. Steps are compared by their displacement "
        f"z' - z and, with weight {START:g}, by where they start. Right: first steps, from the real "
        "state with the nearest latent to that of the predicted one; red if impossible. A level that follows the landmark graph plans nothing.",
    )  # fmt: skip


def best_plans(study: Study) -> dict[int, Plans]:
    """Level -> its best plans; without levels that predict nothing."""
    rows, agent, rng = study.held_out, study.agent, np.random.default_rng(0)
    start, goal = rng.integers(len(rows.rows), size=(2, PLANS))
    try:
        agent.reset({name: study.dataset.column(name)[rows.rows[goal]] for name in agent.spec.goal or agent.inputs})
        agent.act({name: study.dataset.column(name)[rows.rows[start]] for name in agent.inputs})
    except (
        ValueError
    ) as error:  # the planner cannot plan towards states of the data, for instance without a whole observation
        say(f"steps that no episode makes: not measured, because {error}")
        return {}
    found = {}
    for k, plan in enumerate(agent.plan.levels):
        if (
            plan.predicted is not None
            and len(study.training.starts(study.periods[k], 1))
            and len(rows.starts(study.periods[k], 1))
        ):
            latent, predicted = rows.latents[k][start], plan.predicted.cpu()
            before = torch.cat([latent.unsqueeze(1), predicted[:, :-1]], 1)
            steps = torch.cat([before, predicted], 2).flatten(0, 1)
            impossible = unsupported(steps, _real(study, study.training, k, KNOWN), _real(study, rows, k, TESTED))
            found[k] = Plans(latent, predicted, impossible.reshape(predicted.shape[:2]))
    return found


def unsupported(steps: Tensor, known: Tensor, held_out: Tensor) -> np.ndarray:
    """Which steps (N, 2 D) are less like the most similar known step (M, 2 D) than `LIMIT` of the held-out ones are, (N,)."""
    known = _moves(known)
    limit = np.quantile(nearest(_moves(held_out), known)[0].numpy(), LIMIT)
    return nearest(_moves(steps), known)[0].numpy() > limit


def _moves(steps: Tensor) -> Tensor:
    """Steps (z, z') by where they start and their displacement, (N, 2 D).

    The start counts less. Else a step that is shorter than the spacing of the data would be near real ones whatever it does.
    """
    start, end = steps.chunk(2, 1)
    return torch.cat([START * start, end - start], 1)


def _real(study: Study, rows: EncodedRows, level: int, number: int) -> Tensor:
    """Real steps of a level: (z, z') side by side, (N, 2 D)."""
    starts = rows.starts(study.periods[level], number)
    return torch.cat([rows.latents[level][starts], rows.latents[level][starts + study.periods[level]]], 1)


def _draw(study: Study, plans: dict[int, Plans]) -> Figure:
    shown = plans if study.on_map else {}
    figure, (axes,) = row_of(1 + len(shown), 3.6, 3.4)
    for i, (k, of_level) in enumerate(plans.items()):
        first, anywhere = 100 * of_level.impossible[:, 0].mean(), 100 * of_level.impossible.any(1).mean()
        bars = axes[0].bar([i - 0.2, i + 0.2], [first, anywhere], 0.36, color=color(k))
        bars[1].set(alpha=0.45)
        for x, height in ((i - 0.2, first), (i + 0.2, anywhere)):
            axes[0].annotate(f"{height:.0f}", (x, height), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes[0].set_xticks(range(len(plans)), [f"level {k}" for k in plans])
    axes[0].set(ylabel="impossible (%)", ylim=(0, 108))
    axes[0].set_title("first step (dark), any step (light)", fontsize=9)
    plain(axes[0])
    maps(study, axes[1:])
    for each, (k, of_level) in zip(axes[1:], shown.items(), strict=True):
        begin, end = (study.decode(k, z[:ARROWS])[:, :2] for z in (of_level.start, of_level.predicted[:, 0]))
        wrong, factor = of_level.impossible[:ARROWS, 0], magnification(study, end - begin)
        for which, hue in ((~wrong, SUPPORTED), (wrong, IMPOSSIBLE)):
            arrows(each, begin[which], (end - begin)[which], hue, factor)
        each.plot(*begin.T, ".", ms=3, color="0.2")
        each.set_title(titled(f"level {k}: first steps", factor), fontsize=9)
    if shown:
        axes[-1].plot([], [], ".", ms=3, color="0.2", label="where the plan begins")
        axes[-1].plot([], [], color=SUPPORTED, lw=2, label="first step that the data support")
        axes[-1].plot([], [], color=IMPOSSIBLE, lw=2, label="impossible first step")
        figure.legend(
            *axes[-1].get_legend_handles_labels(), loc="outside lower right", ncols=4, fontsize=8, frameon=False
        )
    return figure
