"""The evaluation: the stack and its baselines, on the same tasks, at equal compute, in one go."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from hiwm.agent import Agent
from hiwm.checks import at_least
from hiwm.evaluation.batches import Batches
from hiwm.evaluation.episodes import Box, run_episodes
from hiwm.evaluation.outcomes import Episodes
from hiwm.evaluation.statistics import wilson_interval

HIERARCHICAL = "hierarchical"


@dataclass(frozen=True)
class Forbidden:
    """A box in the part of the state that goals are about (`goal.columns`).

    Args:
        low, high: its bounds, one number each for every number of the part; empty for no box.
        margin: planners keep this far out of it, in deviations of the data; null: they are not told.
    """

    low: Sequence[float] = ()
    high: Sequence[float] = ()
    margin: float | None = None

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high):
            raise ValueError(
                f"evaluation.forbidden.low is {list(self.low)}, high {list(self.high)}; allowed: as many numbers"
            )

    @property
    def box(self) -> Box | None:
        """None where nothing is forbidden."""
        return Box(self.low, self.high) if self.low else None


@dataclass(frozen=True)
class EvaluationConfig:
    """The protocol (OGBench's by default: five tasks, 50 episodes each, success at first arrival).

    Args:
        name: results lie in `<name>.json`, sample episodes in `<name>.npz`.
        num_tasks: tasks 1 to num_tasks of the environment.
        episodes: of each task.
        baseline_episodes: of each task for the baselines.
        max_steps: an episode's limit.
        num_envs: episodes planned for together, by agents without `planner.feedback`.
        seed: of starts and goals.
        flat_budget: the baselines plan with this many times the predictor calls of the stack.
        environment: arguments added to the environment's while evaluating, so that it is not what it was in the data.
        tries: every episode so many times one after another, with what is remembered (`planner.feedback`) of the tries
            before; each with other noise: try t has the starts and goals of seed + t - 1.
        memory: folder of what is remembered, found there at the beginning and left there at the end; null for none:
            the evaluation begins with nothing. Every episode has a memory of its own.
        forbidden: region whose entries are counted, and which planners keep out of.
        baselines: agent -> keys of the planner that differ, `num_levels`, and `margin` of the forbidden region.
    """

    name: str = "evaluation"
    num_tasks: int = 5
    episodes: int = 50
    baseline_episodes: int = 10
    max_steps: int = 1000
    num_envs: int = 50
    seed: int = 0
    flat_budget: float = 1.0
    environment: Mapping[str, Any] = field(default_factory=dict)
    tries: int = 1
    memory: str | None = None
    forbidden: Forbidden = field(default_factory=Forbidden)
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", self.name):
            raise ValueError(f"evaluation.name is {self.name!r}; allowed: the name of a file, without its ending")
        at_least("evaluation.", 1, num_tasks=self.num_tasks, episodes=self.episodes, max_steps=self.max_steps)
        at_least("evaluation.", 1, num_envs=self.num_envs, baseline_episodes=self.baseline_episodes, tries=self.tries)
        at_least("evaluation.", 0, flat_budget=self.flat_budget)


def make_agents(agent: Agent, config: EvaluationConfig) -> dict[str, Agent]:
    """The stack's agent and its baselines, which share its levels and its budget times `flat_budget`."""
    agents = {HIERARCHICAL: agent}
    margins = {HIERARCHICAL: config.forbidden.margin}
    for name, changes in config.baselines.items():
        changes = {"budget": agent.config.budget * config.flat_budget, **changes}
        margins[name] = changes.pop("margin", config.forbidden.margin)
        try:
            agents[name] = agent.with_planner(**changes)
        except ValueError as error:
            raise ValueError(f"evaluation.baselines.{name}: {error}") from error
    for name, margin in margins.items():
        if margin is not None and config.forbidden.low:
            agents[name].forbid(config.forbidden.low, config.forbidden.high, margin)
    return agents


def evaluate(
    agents: Mapping[str, Agent],
    make_env: Callable[[], gymnasium.Env],
    config: EvaluationConfig,
    state: Sequence[str],
    report: Callable[[str, int, int, int], None],
    folder: Path,
) -> dict[str, Episodes]:
    """Run every agent, or go on where an interrupted call stopped.

    Args:
        agents: by name.
        make_env: makes one environment.
        config: the protocol.
        state: as in `run_episodes`.
        report: called with (agent, episodes done, successes, all).
        folder: keeps the batches that are done; what is there must be of the same agents and protocol.

    Returns:
        Agent -> its episodes; those of a second and third try under "<agent>, try 2", ...
    """
    outcomes = {}
    for name, agent in agents.items():
        for t in range(config.tries):
            told = name if t == 0 else f"{name}, try {t + 1}"
            outcomes[told] = run_episodes(
                agent,
                make_env,
                num_tasks=config.num_tasks,
                episodes=config.episodes if name == HIERARCHICAL else min(config.episodes, config.baseline_episodes),
                max_steps=config.max_steps,
                # one that remembers has a memory for every start and goal: episodes at once would share it
                num_envs=config.num_envs if agent.edge_memory is None else 1,
                seed=config.seed + t,
                state=state,
                report=lambda done, won, of, told=told: report(told, done, won, of),
                memory=Path(config.memory or folder / "memory") / name,
                forbidden=config.forbidden.box,
                done=Batches(folder / told),
            )
    return outcomes


def summarize(outcome: Episodes) -> dict[str, Any]:
    """The numbers of one agent, JSON-ready; with `violations` where a region is forbidden."""
    task, success, steps = np.array(outcome.task), np.array(outcome.success), np.array(outcome.steps)
    won = steps[success]
    numbers = {
        **_rate(success),
        "per_task": {str(number): _rate(success[task == number]) for number in np.unique(task)},
        "steps": {"mean": float(won.mean()), "median": float(np.median(won))} if len(won) else None,
        "plan_ms": {
            "mean": float(np.average(outcome.plan_ms, weights=outcome.planned)),
            "p50": float(np.percentile(outcome.plan_ms, 50)),
            "p95": float(np.percentile(outcome.plan_ms, 95)),
        },
        "predictor_calls": outcome.predictor_calls / sum(outcome.planned),
        "other_calls": outcome.other_calls / sum(outcome.planned),
    }
    if outcome.inside:
        inside = np.array(outcome.inside)
        entered = _rate(inside > 0)
        entered["share"] = entered.pop("success")
        numbers["violations"] = {**entered, "steps": float(inside.mean())}
    return numbers


def _rate(success: np.ndarray) -> dict[str, Any]:
    won, trials = int(success.sum()), len(success)
    return {"success": won / trials, "interval": list(wilson_interval(won, trials)), "episodes": trials}
