"""Episodes of one agent: many environments advance in step and share each planning call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from hiwm.data.vector import HeldEpisodes, make_vector
from hiwm.evaluation.batches import Batches
from hiwm.evaluation.config import Box
from hiwm.evaluation.outcomes import Episodes
from hiwm.evaluation.recording import Recorder
from hiwm.observation import Observation
from hiwm.planning.goals import Goal
from hiwm.planning.graph.edge_memory import EdgeMemory
from hiwm.planning.plan import Plan

if TYPE_CHECKING:
    from hiwm.agent import Agent


def episode_seed(seed: int, task: int, episode: int) -> int:
    """Seed of one episode; start and goal depend only on it."""
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
    edge_memory: Path | None = None,
    make_goal: Callable[[Observation], Observation | Goal] = lambda observation: observation,
    forbidden: Box | None = None,
    done: Batches | None = None,
    mine: Iterator[bool] = repeat(True),  # noqa: B008, because it has no state
) -> Episodes:
    """Run every task `episodes` times, or this process's share of that.

    Args:
        agent: the agent to evaluate.
        make_env: makes one environment; `hiwm.envs` describes what it must provide.
        num_tasks: run the tasks 1 to `num_tasks`.
        episodes: episodes per task.
        max_steps: maximum length of an episode, environment steps.
        num_envs: episodes in a batch.
        seed: seed of starts and goals.
        state: names of the observations that form the true state, for the traces.
        report: called with (finished episodes, successes, all episodes) at the beginning and after each batch.
        edge_memory: folder of the agent's edge memories, one for each batch; see `_EdgeMemoryFile`.
        make_goal: makes the agent's goal from the goal observations of a batch.
        forbidden: steps in this box are counted, by the true state.
        done: batches finished by an interrupted call, which are not run again; new ones are added.
        mine: whether this process runs the next batch; one answer for each batch.
    """
    outcome = Episodes()
    size = min(num_envs, episodes)
    firsts = [(task, first) for task in range(1, num_tasks + 1) for first in range(0, episodes, size)]
    batches = [(task, range(first, min(first + size, episodes))) for task, first in firsts if next(mine)]
    total = sum(len(numbers) for _, numbers in batches)
    report(0, 0, total)
    with contextlib.ExitStack() as stack:
        envs = cache(lambda: stack.enter_context(contextlib.closing(make_vector(make_env, size))))
        for task, numbers in batches:
            name = f"{task}-{numbers[0]}"
            batch = None if done is None else done.load(name)
            learned = _EdgeMemoryFile(agent.edge_memory, edge_memory, name, "" if done is None else done.folder.name)
            if batch is None:
                learned.load()
                batch = _run_batch(
                    agent, envs(), task, numbers, max_steps=max_steps, seed=seed, make_goal=make_goal,
                    forbidden=forbidden, state=state if _may_be_recorded(outcome, task, numbers) else None,
                )  # fmt: skip
                learned.save()
                if done is not None:
                    done.save(name, batch)
            learned.commit()
            outcome += batch
            report(len(outcome.success), sum(outcome.success), total)
    return outcome


def _may_be_recorded(outcome: Episodes, task: int, numbers: range) -> bool:
    """Whether the batch can hold the first episode of its task or the first failure, which is in no batch before."""
    return numbers[0] == 0 or all(trace.success for trace in outcome.traces if trace.task == task)


class _EdgeMemoryFile:
    """The edge memory of one batch on disk, which an interrupted evaluation leaves as it was before or after the batch.

    Args:
        memory: of the agent; None: there is nothing to load or save.
        folder: of the edge memories; None: each batch starts with an empty one, and none is saved.
        name: of the batch.
        attempt: distinguishes batches of the same name, whose edge memory is the same.
    """

    def __init__(self, memory: EdgeMemory | None, folder: Path | None, name: str, attempt: str) -> None:
        self.memory = memory
        self.file = None if folder is None or memory is None else folder / f"{name}.safetensors"
        self.new = None if self.file is None else self.file.with_name(f"{name} after {attempt}.safetensors")

    def load(self) -> None:
        """Give the agent what earlier attempts learned."""
        if self.memory is not None:
            self.memory.reset()
            if self.file is not None and self.file.exists():
                self.memory.load(self.file)

    def save(self) -> None:
        """Save what the batch has taught; it counts from `commit` on, when the batch is saved too."""
        if self.memory is not None and self.new is not None:
            self.new.parent.mkdir(parents=True, exist_ok=True)
            self.memory.save(self.new)

    def commit(self) -> None:
        """Let later attempts start with what `save` saved, now or in a command that was killed before it could."""
        if self.file is not None and self.new is not None and self.new.exists():
            self.new.replace(self.file)


def _run_batch(
    agent: Agent,
    envs: VectorEnv,
    task: int,
    numbers: range,
    *,
    max_steps: int,
    seed: int,
    state: Sequence[str] | None,
    make_goal: Callable[[Observation], Observation | Goal],
    forbidden: Box | None,
) -> Episodes:
    """Run the episodes with these numbers of one task together; without `state`, none is recorded."""
    outcome = Episodes(task=[task] * len(numbers))
    observations, goals = _reset(envs, task, numbers, seed)
    agent.reset(make_goal(goals), episodes=[episode_seed(seed, task, e) for e in numbers])
    recorder = None if state is None else Recorder(agent, state, len(numbers), max_steps)
    walls = [] if state is None else [_walls(envs, observations, row) for row in range(len(numbers))]
    running = np.arange(len(numbers))
    success = np.zeros(len(numbers), bool)
    steps = np.full(len(numbers), max_steps)
    inside = np.zeros(len(numbers), int)
    actions = np.zeros((envs.num_envs, *agent.action_shape), agent.action_dtype)
    for step in range(max_steps):
        seen = _rows(observations, running)
        actions[running] = agent.act(seen)
        _count(outcome, agent.plan, len(running))
        if recorder is not None:
            recorder.step(step, running, seen, agent.plan)
        observations, _, _, _, infos = envs.step(actions)
        if forbidden is not None:
            inside[running] += forbidden.holds(_states(_rows(observations, running), agent.spec.goal))
        # gymnasium reports success 0 for an episode that ended earlier, so only running episodes are read; it is left out
        # where no environment reports it
        arrived = np.asarray(infos.get("success", np.zeros(envs.num_envs)))[running] > 0
        success[running[arrived]] = True
        if recorder is not None and arrived.any():
            recorder.arrive(step + 1, running[arrived], _rows(observations, running[arrived]))
        over = arrived | np.asarray(infos["ended"])[running]
        if over.any():
            steps[running[over]] = step + 1
            running = running[~over]
            if len(running) == 0:
                break
            agent.select(~over)
    outcome.success, outcome.steps = success.tolist(), steps.tolist()
    monitors = agent.planner.subgoal_monitors
    outcome.subgoals = [{f"level{k}": [total.item() for total in monitors[k].tally] for k in sorted(monitors)}]
    if forbidden is not None:
        outcome.inside = inside.tolist()
    if recorder is not None:
        outcome.traces = recorder.traces(task, numbers, goals, walls)
    return outcome


def _reset(envs: VectorEnv, task: int, numbers: range, seed: int) -> tuple[Observation, Observation]:
    """Start the episodes; returns the observations of all environments, and the goals of the episodes."""
    seeds = [episode_seed(seed, task, e) for e in numbers]
    # surplus environments repeat the last episode; their results are not read
    surplus = envs.num_envs - len(seeds)
    padded: Any = seeds + seeds[-1:] * surplus  # VectorEnv's type of `seed` omits lists
    options = {"task_id": task, "episode": [*numbers] + [numbers[-1]] * surplus}
    observations, infos = envs.reset(seed=padded, options=options)
    return observations, _rows(infos["goal"], np.arange(len(numbers)))


def _walls(envs: VectorEnv, observations: Observation, row: int) -> np.ndarray:
    """The walls of one episode, (W, 4), where the environment says that they differ between episodes."""
    walls_of: Any = getattr(envs, "walls_of", None)
    if isinstance(envs, HeldEpisodes) and (one := envs.envs[0]).has_wrapper_attr("walls_of"):
        walls_of = one.get_wrapper_attr("walls_of")
    if walls_of is None:
        return np.zeros((0, 4))
    named = isinstance(observations, Mapping)
    observation = {name: x[row] for name, x in observations.items()} if named else observations[row]
    return np.array(walls_of(observation), float).reshape(-1, 4)


def _count(outcome: Episodes, plan: Plan, episodes: int) -> None:
    """Add the compute of one planning call for this many episodes."""
    outcome.plan_ms.append(plan.milliseconds / episodes)
    outcome.planned.append(episodes)
    outcome.predictor_calls += plan.predictor_calls * episodes
    outcome.other_calls += plan.other_calls * episodes


def _states(observations: Observation, state: Sequence[str]) -> np.ndarray:
    """The true state as one array, (N, C)."""
    columns = [observations[name] for name in state] if isinstance(observations, Mapping) else [observations]
    return np.concatenate([np.array(column, np.float32).reshape(len(column), -1) for column in columns], 1)


def _rows(observations: Observation, rows: np.ndarray) -> Observation:
    """Some rows of every column; gymnasium's masks, whose names begin with `_`, are left out."""
    if isinstance(observations, dict):
        return {name: value[rows] for name, value in observations.items() if not name.startswith("_")}
    return np.asarray(observations)[rows]
