"""Episodes of one agent: many environments in step, one planning call for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from hiwm.agent import Agent, Observation
from hiwm.data.vector import make_vector
from hiwm.evaluation.batches import Batches
from hiwm.evaluation.outcomes import Episodes, Trace


@dataclass(frozen=True)
class Box:
    """A box in the part of the state that goals are about.

    Args:
        low, high: its bounds, (G,).
    """

    low: Sequence[float]
    high: Sequence[float]

    def holds(self, points: np.ndarray) -> np.ndarray:
        """(N, G) -> (N,)."""
        return np.all((points >= np.array(self.low)) & (points <= np.array(self.high)), axis=1)


def episode_seed(seed: int, task: int, episode: int) -> int:
    """Start and goal of an episode depend on this alone."""
    return int(np.random.SeedSequence([seed, task, episode]).generate_state(1)[0])


def run_episodes(
    agent: Agent,
    make_env: Callable[[], gymnasium.Env],
    *,
    num_tasks: int,
    episodes: int,
    max_steps: int,
    num_envs: int,
    seed: int,
    state: Sequence[str],
    report: Callable[[int, int, int], None],
    memory: Path | None = None,
    forbidden: Box | None = None,
    done: Batches | None = None,
) -> Episodes:
    """Every task, `episodes` times.

    Args:
        agent: acts.
        make_env: makes one environment; see `hiwm.envs` for its contract.
        num_tasks: tasks 1 to num_tasks.
        episodes: of each.
        max_steps: an episode's limit, environment steps.
        num_envs: episodes in a batch.
        seed: of starts and goals.
        state: names of the observations that are the true state, for the traces.
        report: called with (episodes done, successes, episodes in all) at the beginning and after each batch.
        memory: folder of what the agent remembers (`Agent.experience`) of each batch, which knows nothing of the others:
            it begins with what is there and leaves what it knows in the end. None to begin with nothing and leave nothing.
        forbidden: steps in it are counted, by the true state.
        done: batches that an interrupted call has run already; those of this one are added.
    """
    outcome = Episodes()
    size = min(num_envs, episodes)
    report(0, 0, num_tasks * episodes)
    envs = make_vector(make_env, size)
    try:
        for task in range(1, num_tasks + 1):
            for first in range(0, episodes, size):
                wanted = min(size, episodes - first)
                numbers, name = range(first, first + wanted), f"{task}-{first}"
                batch = None if done is None else done.load(name)
                if batch is None:
                    with _remembering(agent, memory, name):
                        batch = _run_batch(agent, envs, task, numbers, max_steps, seed, state, forbidden)
                    if done is not None:
                        done.save(name, batch)
                outcome += batch
                report(len(outcome.success), sum(outcome.success), num_tasks * episodes)
    finally:
        envs.close()
    return outcome


@contextlib.contextmanager
def _remembering(agent: Agent, folder: Path | None, name: str) -> Iterator[None]:
    if agent.experience is None:
        yield
        return
    agent.experience.forget()
    file = None if folder is None else folder / f"{name}.safetensors"
    if file is not None and file.exists():
        agent.experience.load(file)
    yield
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        agent.experience.save(file)


def _run_batch(
    agent: Agent,
    envs: VectorEnv,
    task: int,
    numbers: range,
    max_steps: int,
    seed: int,
    state: Sequence[str],
    forbidden: Box | None,
) -> Episodes:
    outcome = Episodes()
    seeds = [episode_seed(seed, task, e) for e in numbers]
    # environments beyond those wanted repeat the last episode and are not looked at
    beyond = envs.num_envs - len(seeds)
    padded: Any = seeds + seeds[-1:] * beyond  # VectorEnv's type of a seed forgets lists
    options = {"task_id": task, "episode": [*numbers] + [numbers[-1]] * beyond}
    observations, infos = envs.reset(seed=padded, options=options)
    goals = _rows(infos["goal"], np.arange(len(numbers)))
    agent.reset(goals)
    running = np.arange(len(numbers))
    success = np.zeros(len(numbers), bool)
    steps = np.full(len(numbers), max_steps)
    inside = np.zeros(len(numbers), int)
    actions = np.zeros((envs.num_envs, *agent.action_shape), agent.action_dtype)
    seen, handed, why = [], [], []
    for step in range(max_steps):
        here = _rows(observations, running)
        actions[running] = agent.act(here)
        plan = agent.plan
        outcome.plan_ms.append(plan.milliseconds / len(running))
        outcome.planned.append(len(running))
        outcome.predictor_calls += plan.predictor_calls * len(running)
        outcome.other_calls += plan.other_calls * len(running)
        traced = running[0] == 0 and numbers[0] == 0
        if traced:
            seen.append(_states(observations, state)[0])
            handed.append([part.subgoal[0].cpu().numpy() for part in plan.steps])
            if plan.steps[-1].made_at == step:
                why.append(plan.explain(0))
        observations, _, _, _, infos = envs.step(actions)
        if forbidden is not None:
            inside[running] += forbidden.holds(_states(_rows(observations, running), agent.world.goal))
        # an episode that ended has no "success" of its own any more: gymnasium fills in 0
        arrived = np.asarray(infos["success"])[running] > 0
        success[running[arrived]] = True
        if traced and arrived[0]:
            seen.append(_states(observations, state)[0])
        over = arrived | np.asarray(infos["ended"])[running]
        if over.any():
            steps[running[over]] = step + 1
            running = running[~over]
            if len(running) == 0:
                break
            agent.keep(~over)
    outcome.task, outcome.success, outcome.steps = [task] * len(numbers), success.tolist(), steps.tolist()
    if forbidden is not None:
        outcome.inside = inside.tolist()
    if seen:
        subgoals = [np.stack(level) for level in zip(*handed, strict=True)]
        outcome.traces = [Trace(task, bool(success[0]), np.stack(seen), _states(goals, state)[0], subgoals, why)]
    return outcome


def _states(observations: Observation, state: Sequence[str]) -> np.ndarray:
    """(N, C)."""
    columns = [observations[name] for name in state] if isinstance(observations, Mapping) else [observations]
    return np.concatenate([np.array(column, np.float32).reshape(len(column), -1) for column in columns], 1)


def _rows(observations: Observation, rows: np.ndarray) -> Observation:
    if isinstance(observations, dict):
        return {name: value[rows] for name, value in observations.items() if not name.startswith("_")}
    return np.asarray(observations)[rows]
