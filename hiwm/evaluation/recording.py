"""Records the episodes of a batch, of which the first and the first failure are kept once it has ended."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hiwm.evaluation.frames import as_frames, image_input
from hiwm.evaluation.outcomes import LevelTrace, Trace
from hiwm.levels.device import upload
from hiwm.observation import Observation
from hiwm.planning.explain.outcome import OPEN, REACHED, UNREACHED
from hiwm.planning.explain.records import BatchRecord
from hiwm.planning.model import LevelModel
from hiwm.planning.plan import LevelPlan, Plan
from hiwm.planning.subgoals import REACHED_SHARE

if TYPE_CHECKING:
    from hiwm.agent import Agent

NUMBERS = 64  # of the state that are kept; images have many more
FRAMES = 100  # of an episode that are kept
EPISODE_BYTES = 4 << 20  # of observations; larger ones are recorded less often
BATCH_BYTES = 256 << 20  # of everything that is recorded of a batch


@dataclass(frozen=True)
class _Record:
    """What was recorded of some episodes at a step.

    Args:
        step: environment step.
        rows: numbers of the episodes within the batch, (N,).
        values: their rows: arrays by name, or the plan of a level.
    """

    step: int
    rows: np.ndarray
    values: Mapping[str, np.ndarray] | LevelPlan

    @property
    def bytes(self) -> int:
        if isinstance(self.values, LevelPlan):
            return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(self.values))
        return sum(array.nbytes for array in self.values.values())

    def place(self, row: int) -> int | None:
        """Where the episode of this number in the batch is among the recorded ones; None if it is not."""
        place = int(np.searchsorted(self.rows, row))
        return place if place < len(self.rows) and self.rows[place] == row else None

    def only(self, wanted: np.ndarray) -> _Record:
        """The same for the episodes of a mask over the batch."""
        kept = np.flatnonzero(wanted[self.rows])
        if isinstance(self.values, LevelPlan):
            values: Any = self.values.select(upload(torch.from_numpy(kept), self.values.subgoal.device))
        else:
            values = {name: array[kept] for name, array in self.values.items()}
        return _Record(self.step, self.rows[kept], values)


class Recorder:
    """Records every running episode of a batch. It keeps plans on their device, so that no step waits for a GPU.

    Args:
        agent: whose plans are recorded.
        state: names of the observations that form the true state.
        size: number of episodes.
        max_steps: maximum length of an episode.
        most_bytes: of all that is recorded. Beyond, successful episodes are forgotten, then those with the highest numbers;
            the first episode never is.
    """

    def __init__(
        self, agent: Agent, state: Sequence[str], size: int, max_steps: int, most_bytes: int = BATCH_BYTES
    ) -> None:
        self.agent, self.columns, self.most_bytes = agent, state, most_bytes
        self.size, self.max_steps = size, max_steps
        self.kept = np.ones(size, bool)
        self.success = np.zeros(size, bool)
        self.sizes: dict[str, int] = {}  # of the state columns, where observations have several
        self.inputs: list[_Record] = []
        self.states: list[_Record] = []
        self.plans: list[list[_Record]] = [[] for _ in agent.hierarchy.levels]
        self.bytes = 0

    def step(self, step: int, rows: np.ndarray, seen: Observation, plan: Plan) -> None:
        """Record a step of the running episodes.

        Args:
            step: environment step.
            rows: their numbers within the batch, ascending, (N,).
            seen: their observations, which nobody changes later.
            plan: the plan for them.
        """
        if not self.kept[rows].any():
            return
        self._observe(step, rows, seen, plan.action.flatten(1).numpy())
        for k, level in enumerate(plan.levels):
            if level.planned_at == step:
                self._add(self.plans[k], _Record(step, rows, level))
        while self.bytes > self.most_bytes and self._forget():
            pass

    def arrive(self, step: int, rows: np.ndarray, seen: Observation) -> None:
        """Record the observations, after so many steps, of episodes that reached their goals."""
        self.success[rows] = True
        if len(rows) and self.kept[rows].any():
            self._observe(step, rows, seen)

    def traces(self, task: int, numbers: range, goals: Observation, walls: Sequence[np.ndarray]) -> list[Trace]:
        """The traces of the first episode, if the batch begins with it, and of the first failure.

        Args:
            task: number of the task.
            numbers: of the episodes within the task.
            goals: of the batch.
            walls: `Trace.walls` of each episode of the batch.
        """
        failed = np.flatnonzero(~self.success & self.kept)
        rows = {0} if numbers[0] == 0 else set()
        rows |= set(failed[:1].tolist())
        return [self._trace(row, task, numbers[row], goals, walls[row]) for row in sorted(rows)]

    def _observe(self, step: int, rows: np.ndarray, seen: Observation, action: np.ndarray | None = None) -> None:
        every = -(-self.max_steps * sum(x.nbytes // len(x) for x in self._inputs(seen).values()) // EPISODE_BYTES)
        if step % max(1, every) == 0 or action is None:
            self._add(self.inputs, _Record(step, rows, self._inputs(seen)))
        named = {"state": self._state(seen)} | ({} if action is None else {"action": action})
        self._add(self.states, _Record(step, rows, named))

    def _inputs(self, seen: Observation) -> dict[str, np.ndarray]:
        if isinstance(seen, Mapping):
            return {name: seen[name] for name in self.agent.inputs}
        return {next(iter(self.agent.inputs)): seen}

    def _state(self, seen: Observation) -> np.ndarray:
        """The first numbers of the true state, (N, C)."""
        columns = {name: seen[name] for name in self.columns} if isinstance(seen, Mapping) else {"": seen}
        flat = {name: np.asarray(column).reshape(len(column), -1) for name, column in columns.items()}
        if not self.sizes:
            self.sizes = {name: column.shape[1] for name, column in flat.items()}
        return np.concatenate([column[:, :NUMBERS] for column in flat.values()], 1)[:, :NUMBERS].astype(np.float32)

    def _goal(self, goals: Observation, row: int) -> np.ndarray:
        """State of the goal, (C,), with NaN in the columns that goals do not have."""
        if isinstance(goals, Mapping):
            unknown = {name: np.full((len(self.success), size), np.nan) for name, size in self.sizes.items()}
            goals = {name: goals[name] if name in goals else unknown[name] for name in self.columns}
        return self._state({name: goal[row : row + 1] for name, goal in goals.items()}
                           if isinstance(goals, Mapping) else goals[row : row + 1])[0]  # fmt: skip

    def _add(self, records: list[_Record], record: _Record) -> None:
        if not self.kept.all():
            record = record.only(self.kept)
        records.append(record)
        self.bytes += record.bytes

    def _forget(self) -> bool:
        """Forget successful episodes, or else half of all but the first; returns whether any was left to forget."""
        before, first = self.kept.copy(), np.arange(self.size) == 0
        self.kept = before & (~self.success | first)
        if (self.kept == before).all():
            others = np.flatnonzero(before & ~first)
            if not len(others):
                return False
            self.kept[others[len(others) // 2 :]] = False
        records = (self.inputs, self.states, *self.plans)
        for of in records:
            of[:] = [record.only(self.kept) for record in of if self.kept[record.rows].any()]
        self.bytes = sum(record.bytes for of in records for record in of)
        return True

    def _trace(self, row: int, task: int, episode: int, goals: Observation, walls: np.ndarray) -> Trace:
        states, seen = _of_episode(self.states, row), _of_episode(self.inputs, row)
        inputs = {name: np.stack([values[name] for _, values in seen]) for name in self.agent.inputs}
        inputs = {name: x.astype(np.float32) if x.dtype == np.float64 else x for name, x in inputs.items()}
        steps = np.array([step for step, _ in seen])
        latents = self.agent.hierarchy.encode_many(inputs, np.arange(len(seen)))
        frame_steps, frames = self._frames(steps, inputs, goals, row)
        return Trace(
            task, episode, bool(self.success[row]),
            states=np.stack([values["state"] for _, values in states]),
            goal=self._goal(goals, row),
            actions=np.stack([values["action"] for _, values in states if "action" in values]),
            seen=steps,
            levels=[
                level_trace(self.agent, k, plans, steps, latents[k].numpy())
                for k, plans in enumerate(self._plans(row))
            ],
            frame_steps=frame_steps, frames=frames, walls=walls,
        )  # fmt: skip

    def _plans(self, row: int) -> list[list[LevelPlan]]:
        """The plans of every level for one episode, alone and on the CPU."""
        found: list[list[LevelPlan]] = []
        for records in self.plans:
            found.append([])
            for record in records:
                if (place := record.place(row)) is not None:
                    assert isinstance(record.values, LevelPlan)
                    found[-1].append(record.values.alone(place))
        return found

    def _frames(
        self, steps: np.ndarray, inputs: Mapping[str, np.ndarray], goals: Observation, row: int
    ) -> tuple[np.ndarray, np.ndarray]:
        name = image_input(self.agent.inputs)
        if name is None:
            return np.zeros(0, int), np.zeros((0, 1, 1, 1), np.uint8)
        chosen = np.unique(np.linspace(0, len(steps) - 1, min(FRAMES, len(steps))).round().astype(int))
        frame_steps, frames = steps[chosen], inputs[name][chosen]
        goal = goals.get(name) if isinstance(goals, Mapping) else goals
        if goal is not None:
            frame_steps = np.append(-1, frame_steps)
            frames = np.concatenate([np.asarray(goal)[row : row + 1].astype(frames.dtype), frames])
        return frame_steps, as_frames(frames)


def _of_episode(records: Sequence[_Record], row: int) -> list[tuple[int, dict[str, np.ndarray]]]:
    """Step and values of one episode."""
    found = []
    for record in records:
        if (place := record.place(row)) is not None:
            assert not isinstance(record.values, LevelPlan)
            found.append((record.step, {name: values[place] for name, values in record.values.items()}))
    return found


def level_trace(agent: Agent, k: int, plans: Sequence[LevelPlan], seen: np.ndarray, latents: np.ndarray) -> LevelTrace:
    """What level k did in one episode.

    Besides the fields of `LevelPlan`, `LevelTrace.plans` has `step`, the environment step of the plan; `parts`, (P, N, H), and
    `cheapest`, (P,), of `CostParts`; `alternative_*` of `Alternatives`; `path`, nodes of the graph, (P, L), and `path_cost`;
    `outcome` of the subgoal with the step at which it was `decided` and the share of its distance that was `left`.

    Args:
        agent: whose plans they are.
        k: number of the level.
        plans: one episode each.
        seen: environment steps at which the latents are known, (T',).
        latents: of the level, (T', D).
    """
    rows = [_numbers(plan) for plan in plans]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _stacked([row.get(name) for row in rows]) for name in names}
    parts = max((plan.parts.names for plan in plans if plan.parts is not None), key=len, default=())
    model = agent.planner.models[k]
    if k:
        replans = [agent.config.replan(j) for j in range(len(agent.hierarchy))]
        due = np.array([any(step % replan == 0 for replan in replans) for step in seen.tolist()])
        columns |= _outcomes(plans, columns, seen[due], latents[due], model, agent.config.patience)
    return LevelTrace(
        plans[0].target_level, model.period, model.step_length, latents, list(parts), columns,
        [plan.explain(0) for plan in plans],
    )  # fmt: skip


def _numbers(plan: LevelPlan) -> dict[str, np.ndarray]:
    """The numbers of a plan for one episode."""
    found: dict[str, Any] = {"step": plan.planned_at, "deadline": plan.deadline}
    for field in fields(plan):
        if isinstance(value := getattr(plan, field.name), Tensor):
            found[field.name] = value[0]
    if plan.parts is not None:
        found |= {"parts": plan.parts.values[0], "cheapest": plan.parts.step[0]}
    if plan.alternatives is not None:
        found |= {f"alternative_{name}": value[0] for name, value in vars(plan.alternatives).items()}
    if plan.path is not None:
        found |= {"path": plan.path.nodes(0), "path_cost": plan.path.cost[0], "path_target": plan.path.target_node[0]}
    return {name: np.asarray(value) for name, value in found.items()}


def _stacked(values: Sequence[np.ndarray | None]) -> np.ndarray:
    """Arrays of one number of axes, (P, ...); what some of them lack is NaN, or -1 in whole numbers."""
    known = [value for value in values if value is not None]
    shape = np.max([value.shape for value in known], 0).astype(int)
    whole = known[0].dtype.kind in "iub"
    stacked = np.full((len(values), *shape), -1 if whole else np.nan, np.int64 if whole else np.float32)
    for i, value in enumerate(values):
        if value is not None:
            stacked[(i, *(slice(size) for size in value.shape))] = value
    return stacked


def _outcomes(
    plans: Sequence[LevelPlan],
    columns: Mapping[str, np.ndarray],
    seen: np.ndarray,
    latents: np.ndarray,
    model: LevelModel,
    patience: float,
) -> dict[str, np.ndarray]:
    """What became of the subgoal of each plan: as later plans know it, else by the same rule as `SubgoalMonitor`.

    `seen` are the steps at which the monitor looked, and `latents` those of the level.
    """
    count, p = len(plans), model.p
    outcome, decided, left = np.full(count, OPEN), np.full(count, -1), np.full(count, np.nan, np.float32)
    for i, (step, deadline, subgoal) in enumerate(
        zip(columns["step"], columns["deadline"], columns["subgoal"], strict=True)
    ):
        start = latents[max(0, np.searchsorted(seen, step, "right") - 1)]
        apart = float((np.abs(subgoal - start) ** p).sum())
        scale = max(apart, model.step_cost)
        until = step + patience * deadline
        later = (seen > step) & (seen <= seen[min(np.searchsorted(seen, until), len(seen) - 1)])
        distance = (np.abs(latents[later] - subgoal) ** p).sum(-1)
        reached = np.flatnonzero(distance <= REACHED_SHARE**p * scale)
        if len(reached):
            outcome[i], decided[i] = REACHED, seen[later][reached[0]]
            distance = distance[: reached[0] + 1]
        elif seen[-1] >= until:
            outcome[i], decided[i] = UNREACHED, until
        if len(distance):
            left[i] = (min(apart, distance.min()) / scale) ** (1 / p)
    place = {int(step): i for i, step in enumerate(columns["step"])}
    for plan in reversed(plans):  # the earliest plan that knows an outcome says when it was decided
        known = plan.outcome
        if known is not None and int(known.outcome[0]) != OPEN:
            i = place[int(known.planned_at[0])]
            outcome[i], decided[i] = int(known.outcome[0]), plan.planned_at
            left[i] = float(known.left[0])
    return {"outcome": outcome, "decided": decided, "left": left}


def _tensors(record: BatchRecord) -> list[Tensor]:
    """The tensors of a record and of the records in it, without the paths of a graph, which many plans share."""
    values = [value for name, value in vars(record).items() if name != "next_node"]
    inner = itertools.chain.from_iterable(_tensors(value) for value in values if isinstance(value, BatchRecord))
    return [value for value in values if isinstance(value, Tensor)] + list(inner)
