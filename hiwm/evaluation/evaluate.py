"""The evaluation: the stack and its baselines, on the same tasks, at equal compute, in one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from hiwm.agent import Agent
from hiwm.checks import at_least
from hiwm.evaluation.episodes import Episodes, run_episodes
from hiwm.evaluation.statistics import wilson_interval

HIERARCHICAL = "hierarchical"


@dataclass(frozen=True)
class EvaluationConfig:
    """The protocol (OGBench's by default: five tasks, 50 episodes each, success at first arrival).

    Args:
        name: results lie in `<name>.json`, sample episodes in `<name>.npz`.
        num_tasks: tasks 1 to num_tasks of the environment.
        episodes: of each task.
        baseline_episodes: of each task for the baselines.
        max_steps: an episode's limit.
        num_envs: episodes planned for together.
        seed: of starts and goals.
        flat_budget: the baselines plan with this many times the predictor calls of the stack.
        baselines: agent -> keys of the planner that differ, and `num_levels`.
    """

    name: str = "evaluation"
    num_tasks: int = 5
    episodes: int = 50
    baseline_episodes: int = 10
    max_steps: int = 1000
    num_envs: int = 50
    seed: int = 0
    flat_budget: float = 1.0
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least("evaluation.", 1, num_tasks=self.num_tasks, episodes=self.episodes, max_steps=self.max_steps)
        at_least("evaluation.", 1, num_envs=self.num_envs, baseline_episodes=self.baseline_episodes)
        at_least("evaluation.", 0, flat_budget=self.flat_budget)


def make_agents(agent: Agent, config: EvaluationConfig) -> dict[str, Agent]:
    """The stack's agent and its baselines, which share its levels and its budget times `flat_budget`."""
    agents = {HIERARCHICAL: agent}
    for name, changes in config.baselines.items():
        changes = {"budget": agent.config.budget * config.flat_budget, **changes}
        try:
            agents[name] = agent.with_planner(**changes)
        except (TypeError, ValueError) as error:
            raise ValueError(f"evaluation.baselines.{name}: {error}") from error
    return agents


def evaluate(
    agents: Mapping[str, Agent],
    make_env: Callable[[], gymnasium.Env],
    config: EvaluationConfig,
    state: Sequence[str],
    report: Callable[[str, int, int, int], None],
) -> dict[str, Episodes]:
    """Run every agent; `state` as in `run_episodes`, `report` is called with (agent, episodes done, successes, all)."""
    outcomes = {}
    for name, agent in agents.items():
        outcomes[name] = run_episodes(
            agent,
            make_env,
            num_tasks=config.num_tasks,
            episodes=config.episodes if name == HIERARCHICAL else min(config.episodes, config.baseline_episodes),
            max_steps=config.max_steps,
            num_envs=config.num_envs,
            seed=config.seed,
            state=state,
            report=lambda done, won, of, name=name: report(name, done, won, of),
        )
    return outcomes


def summarize(outcome: Episodes) -> dict[str, Any]:
    """The numbers of one agent, JSON-ready."""
    task, success, steps = np.array(outcome.task), np.array(outcome.success), np.array(outcome.steps)
    won = steps[success]
    return {
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


def _rate(success: np.ndarray) -> dict[str, Any]:
    won, trials = int(success.sum()), len(success)
    return {"success": won / trials, "interval": list(wilson_interval(won, trials)), "episodes": trials}
