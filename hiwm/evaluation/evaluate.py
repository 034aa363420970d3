"""Evaluation of the hierarchical agent and its baselines on the same tasks at equal compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from hiwm.evaluation.batches import Batches
from hiwm.evaluation.config import HIERARCHICAL, EvaluationConfig
from hiwm.evaluation.episodes import run_episodes
from hiwm.evaluation.goals import check_region, make_goal
from hiwm.evaluation.outcomes import Episodes
from hiwm.evaluation.statistics import wilson_interval
from hiwm.planning.subgoals import SubgoalTally
from hiwm.training.distributed import ALONE, Processes, barrier

if TYPE_CHECKING:  # an agent can evaluate itself
    from hiwm.agent import Agent


def make_agents(agent: Agent, config: EvaluationConfig) -> dict[str, Agent]:
    """The hierarchical agent and its baselines, which share its levels and get `baseline_budget` times its planning budget."""
    agents = {HIERARCHICAL: agent}
    for name in config.baselines:
        try:
            planner, levels = config.planner_of(name, agent.config, len(agent.hierarchy))
            agents[name] = agent.variant(planner, levels)
        except ValueError as error:
            raise ValueError(f"evaluation.baselines.{name}: {error}") from error
    for name, each in agents.items():
        if config.forbidden.box is not None and config.margin(name) is not None:
            check_region(each, config.forbidden.box)
    return agents


def evaluate(
    agents: Mapping[str, Agent],
    make_env: Callable[[], gymnasium.Env],
    config: EvaluationConfig,
    state: Sequence[str],
    report: Callable[[str, int, int, int], None],
    folder: Path,
    processes: Processes = ALONE,
) -> dict[str, Episodes]:
    """Run every agent, or continue where an interrupted call stopped.

    Several processes take turns at the batches of episodes. The main process runs all batches of agents with an edge
    memory, because later attempts need what earlier ones learned.

    Args:
        agents: name -> agent, from `make_agents`.
        make_env: makes one environment.
        config: the protocol.
        state: names of the observations that form the true state, for the traces.
        report: called with (agent, finished episodes, successes, all episodes) of this process.
        folder: keeps finished batches; those found there must come from the same agents and protocol.
        processes: this process and the others.

    Returns:
        Agent -> its episodes, of all processes in the main process. Later attempts have the names `<agent>, attempt 2`, ...
    """
    run = partial(_run_agents, agents, make_env, config, state, folder)
    turns = (i % processes.world_size == processes.rank for i in count())
    outcomes = run(report, turns, repeat(processes.is_main))
    if processes.world_size > 1:
        barrier()
        all_or_none = repeat(processes.is_main)  # read by the main process
        outcomes = run(lambda *_: None, all_or_none, all_or_none)
    return outcomes


def _run_agents(
    agents: Mapping[str, Agent],
    make_env: Callable[[], gymnasium.Env],
    config: EvaluationConfig,
    state: Sequence[str],
    folder: Path,
    report: Callable[[str, int, int, int], None],
    mine: Iterator[bool],
    mine_in_order: Iterator[bool],
) -> dict[str, Episodes]:
    """As `evaluate`; the iterators say whether this process runs the next batch of an agent without or with an edge memory."""
    outcomes = {}
    for name, agent in agents.items():
        for attempt in range(config.attempts):
            label = name if attempt == 0 else f"{name}, attempt {attempt + 1}"
            outcomes[label] = run_episodes(
                agent,
                make_env,
                num_tasks=config.num_tasks,
                episodes=config.episodes if name == HIERARCHICAL else min(config.episodes, config.baseline_episodes),
                max_steps=config.max_steps,
                # an edge memory belongs to one start and goal, and the episodes of a batch would share it
                num_envs=config.num_envs if agent.edge_memory is None else 1,
                seed=config.seed + attempt,
                state=state,
                report=lambda done, won, total, label=label: report(label, done, won, total),
                edge_memory=Path(config.edge_memory or folder / "edge_memory") / name,
                make_goal=partial(make_goal, agent, config, name),
                forbidden=config.forbidden.box,
                done=Batches(folder / label),
                mine=mine if agent.edge_memory is None else mine_in_order,
            )
    return outcomes


def summarize(outcome: Episodes) -> dict[str, Any]:
    """Statistics of one agent, ready for JSON; they include `violations` if a box is forbidden, and `subgoals` of upper levels."""
    task, success, steps = np.array(outcome.task), np.array(outcome.success), np.array(outcome.steps)
    won = steps[success]
    numbers = {
        **_rate(success),
        "per_task": {
            str(number): {
                **_rate(success[task == number]),
                "solved": success[task == number].astype(int).tolist(),
                "steps": steps[task == number].tolist(),
            }
            for number in np.unique(task)
        },
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
    if subgoals := _subgoals(outcome):
        numbers["subgoals"] = subgoals
    return numbers


def _subgoals(outcome: Episodes) -> dict[str, dict[str, Any]]:
    """Level -> how many of its subgoals had each outcome, mean steps to those reached, and mean share of the distance left."""
    found = {}
    for level in sorted({level for batch in outcome.subgoals for level in batch}):
        sums = np.sum([batch[level] for batch in outcome.subgoals if level in batch], axis=0)
        total = dict(zip(SubgoalTally._fields, sums.tolist(), strict=True))
        counts = {name: round(total[name]) for name in ("reached", "unreached", "unreachable")}
        decided = sum(counts.values())
        found[level] = {
            **counts,
            "steps": total["steps"] / counts["reached"] if counts["reached"] else None,
            "distance_left": total["distance_left"] / decided if decided else None,
        }
    return found


def _rate(success: np.ndarray) -> dict[str, Any]:
    won, trials = int(success.sum()), len(success)
    return {"success": won / trials, "interval": list(wilson_interval(won, trials)), "episodes": trials}
