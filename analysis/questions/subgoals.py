"""How often are the subgoals of a level reached, how near does an episode come, and how long does it take?"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from hiwm.analysis.questions.drawing import color, plain, row_of
from hiwm.analysis.questions.study import Finding, Study
from hiwm.evaluation.config import HIERARCHICAL

OUTCOMES = {"reached": "#009e73", "unreached": "#f0e442", "unreachable": "#b3261e"}
IN_WORDS = {"unreached": "not reached in time"}


def subgoals(study: Study) -> Finding | None:
    """Outcomes of all subgoals that were decided in the evaluation of the hierarchy."""
    if study.results is None:
        return None
    found: dict[str, dict[str, Any]] = study.results["agents"][HIERARCHICAL].get("subgoals") or {}
    found = {name: numbers for name, numbers in found.items() if sum(numbers[outcome] for outcome in OUTCOMES)}
    if not found:  # of a single level, or of an older evaluation
        return None
    metrics, said = {}, []
    for name, numbers in found.items():
        decided = sum(numbers[outcome] for outcome in OUTCOMES)
        rate = numbers["reached"] / decided
        metrics |= {f"{name}/subgoals_{outcome}": numbers[outcome] / decided for outcome in OUTCOMES}
        metrics |= {f"{name}/subgoals_decided": decided, f"{name}/subgoals_distance_left": numbers["distance_left"]}
        after = ""
        if numbers["steps"] is not None:
            metrics[f"{name}/subgoals_steps"] = numbers["steps"]
            after = f", on average after {numbers['steps']:.0f} environment steps"
        said.append(f"{name.replace('level', 'level ')}: {100 * rate:.0f} % of {decided}{after}")
    return Finding(
        "Subgoals", f"Subgoals that were reached: {'; '.join(said)}.", metrics, _draw(found),
        "Every subgoal that the hierarchy handed down in the evaluation and whose outcome was decided. Reached: the episode came "
        "within half of the distance at the start, or of a typical step if that is more, in the latent space of the level. Not reached in "
        "time: it did not within planner.patience times its planned duration. Unreachable: the level below found no path to it. Right: "
        "the mean of the least distance from a subgoal, as a share of the distance when it was handed down.",
    )  # fmt: skip


def _draw(found: dict[str, dict[str, Any]]) -> Figure:
    figure, ((left, right),) = row_of(2, 4.6, 1.2 + 0.5 * len(found))
    places = range(0, -len(found), -1)
    for y, numbers in zip(places, found.values(), strict=True):
        decided, start = sum(numbers[outcome] for outcome in OUTCOMES), 0.0
        for outcome, hue in OUTCOMES.items():
            share = 100 * numbers[outcome] / decided
            left.barh(y, share, 0.6, left=start, color=hue, label=IN_WORDS.get(outcome, outcome) if y == 0 else None)
            start += share
    for y, (name, numbers) in zip(places, found.items(), strict=True):
        right.barh(y, 100 * numbers["distance_left"], 0.6, color=color(int(name.removeprefix("level"))))
    left.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    left.set(xlabel="subgoals (%)", xlim=(0, 100))
    right.set(xlabel="distance left (%)")
    decided = [sum(numbers[outcome] for outcome in OUTCOMES) for numbers in found.values()]
    names = [name.replace("level", "level ") for name in found]
    left.set_yticks(places, [f"{name}\n{number:,} subgoals" for name, number in zip(names, decided, strict=True)])
    right.set_yticks(places, names)
    plain(left, right)
    return figure
