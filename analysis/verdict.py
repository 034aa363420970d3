"""The result of an evaluation in plain words: does the hierarchy beat the baselines, beyond chance, at what compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiwm.evaluation.config import HIERARCHICAL
from hiwm.evaluation.statistics import bootstrap_interval

CLOSE = 0.1  # agents whose success rates differ by less, with 95 % confidence, are equally good
LONGER = 1.2  # so many times the steps to the goal are worth a word in the headline
DIFFERING = 6  # a two-sided sign test on fewer episodes that only one agent solves never excludes chance at 5 %
ATTEMPT = ", attempt "


@dataclass(frozen=True)
class Comparison:
    """The hierarchy compared with one baseline on the episodes that both ran, which have the same starts and goals.

    Args:
        baseline: name of the baseline.
        episodes: number of these episodes.
        difference: success rate of the hierarchy minus that of the baseline.
        low, high: 95 % interval of the difference.
        differing: number of episodes that only one of them solved.
        calls, passes: compute of the baseline as a multiple of that of the hierarchy: predictor calls, other forward passes.
        both: number of episodes that both solved.
        steps, baseline_steps: mean steps to the goal of the hierarchy and of the baseline in these; NaN without any.
    """

    baseline: str
    episodes: int
    difference: float
    low: float
    high: float
    differing: int
    calls: float
    passes: float
    both: int
    steps: float
    baseline_steps: float

    @property
    def verdict(self) -> str:
        """How the hierarchy compares: better, worse, equal, or unclear."""
        if (self.low > 0 or self.high < 0) and self.differing >= DIFFERING:
            return "better" if self.low > 0 else "worse"
        return "equal" if max(-self.low, self.high) <= CLOSE else "unclear"

    def text(self) -> str:
        """In words."""
        interval = f"95 % interval {points(self.low)} to {points(self.high)}"
        many = f"in the {self.episodes} episodes that both ran"
        size = f"{abs(100 * self.difference):.0f} percentage points"
        return (
            {
                "better": f"the hierarchy succeeds {size} more often {many} ({interval}). This is beyond chance.",
                "worse": f"the baseline succeeds {size} more often {many} (95 % interval {points(-self.high)} to {points(-self.low)}). "
                "This is beyond chance.",
                "equal": f"as good as the hierarchy {many}: a difference of {points(self.difference)} percentage points ({interval}).",
                "unclear": f"no clear difference {many}: {points(self.difference)} percentage points ({interval}), which chance can explain.",
            }[self.verdict]
            + self._took()
            + f" It used {self.calls:.2f} times the predictor calls of the hierarchy and {self._passes()}."
        )

    @property
    def longer(self) -> bool:
        """Whether the hierarchy takes clearly more steps to the goals that both reach."""
        return self.both > 0 and self.steps > LONGER * self.baseline_steps

    def _took(self) -> str:
        if not self.both:
            return ""
        return (
            f" Where both succeed ({self.both} episodes), the baseline takes {self.baseline_steps:.0f} steps and the "
            f"hierarchy {self.steps:.0f}."
        )

    def _passes(self) -> str:
        return (
            f"{self.passes:.2f} times its other forward passes"
            if self.passes > 0.005
            else "hardly any other forward passes"
        )


def points(share: float) -> str:
    """A difference of rates in percentage points with its sign."""
    rounded = round(100 * share)
    return f"{rounded:+d}".replace("-", "\N{MINUS SIGN}") if rounded else "0"


def comparisons(agents: Mapping[str, Any]) -> list[Comparison]:
    """The hierarchy compared with every baseline; later attempts have other starts, so they are compared with each other."""
    found = []
    for name, numbers in agents.items():
        base, _, attempt = name.partition(ATTEMPT)
        whole = agents.get(HIERARCHICAL + (ATTEMPT + attempt if attempt else ""))
        if base != HIERARCHICAL and whole is not None:
            found.append(_compare(name, numbers, whole))
    return found


def _compare(name: str, baseline: Mapping[str, Any], whole: Mapping[str, Any]) -> Comparison:
    tasks = [task for task in whole["per_task"] if task in baseline["per_task"]]
    number = min(len(agent["per_task"][task]["solved"]) for agent in (whole, baseline) for task in tasks)

    def of(agent: Mapping[str, Any], what: str) -> np.ndarray:
        """One number of each episode that both ran, (1, tasks, episodes)."""
        return np.array([[agent["per_task"][task][what][:number] for task in tasks]], float)

    difference = of(whole, "solved") - of(baseline, "solved")
    low, high = bootstrap_interval(difference)
    calls, passes = (baseline[key] / whole[key] if whole[key] else 0.0 for key in ("predictor_calls", "other_calls"))
    both = (of(whole, "solved") * of(baseline, "solved")).astype(bool)
    steps = (float(of(agent, "steps")[both].mean()) if both.any() else np.nan for agent in (whole, baseline))
    return Comparison(
        name,
        difference.size,
        float(difference.mean()),
        float(low),
        float(high),
        int(np.count_nonzero(difference)),
        calls,
        passes,
        int(both.sum()),
        *steps,
    )


def headline(agents: Mapping[str, Any], found: Sequence[Comparison]) -> str:
    """The result in one or two sentences."""
    whole = agents[HIERARCHICAL]
    won = round(whole["success"] * whole["episodes"])
    low, high = (f"{100 * bound:.0f}" for bound in whole["interval"])
    reached = (
        f"The hierarchy reaches its goal in {won} of {whole['episodes']} episodes ({100 * whole['success']:.1f} %, "
        f"95 % interval {low} to {high} %)"
    )
    compute = f"with {whole['predictor_calls']:.0f} predictor calls per environment step."
    if not any(agent["success"] for agent in agents.values()):
        return "No agent reached a goal, so this evaluation cannot rank the agents."
    if not found:
        return f"{reached}, {compute} No baseline was evaluated, so there is no comparison."
    groups = {kind: _names([each.baseline for each in found if each.verdict == kind]) for kind in _SAYS}
    said = [says.format(groups[kind]) for kind, says in _SAYS.items() if groups[kind]]
    said += [
        f"takes {c.steps / c.baseline_steps:.1f} times as many steps as {c.baseline} where both succeed"
        for c in found
        if c.longer
    ]
    return f"{reached}, {compute} It {'; it '.join(said)}.{_subgoals(whole)}"


def _subgoals(whole: Mapping[str, Any]) -> str:
    """How many subgoals of each level were reached: a hierarchy that succeeds without reaching them owes its success to something else."""
    said = []
    for level, numbers in whole.get("subgoals", {}).items():
        if decided := sum(numbers[outcome] for outcome in ("reached", "unreached", "unreachable")):
            said.append(
                f"{100 * numbers['reached'] / decided:.0f} % of the subgoals of {level.replace('level', 'level ')}"
            )
    return f" It reaches {_names(said)}." if said else ""


_SAYS = {
    "better": "beats {}",
    "equal": "is as good as {}",
    "unclear": "shows no clear difference from {}",
    "worse": "loses to {}",
}


def _names(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
