"""Receding-horizon agent: observations in, actions out, many environments at once."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from hiwm.agent_spec import GRAPH, AgentSpec, check_spec, first_fault, load_graphs, plain
from hiwm.files import read_yaml, recover_folder, replace_folder, saved_folder, write_yaml
from hiwm.heads.heads import Heads
from hiwm.heads.text import embed
from hiwm.hierarchy import DESCRIPTION, Hierarchy, load_hierarchy
from hiwm.levels.device import upload
from hiwm.planning.assemble import make_planner
from hiwm.planning.config import PlannerConfig
from hiwm.planning.goals import BoxRegion, Goal, LabelledRegion, ObservationGoal, PartGoal, PredicateRegion
from hiwm.planning.goals.text import TextGoal
from hiwm.planning.graph.edge_memory import EdgeMemory
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.planning.graph.navigator import GraphNavigator
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.plan import Plan
from hiwm.planning.shrinking_horizon import half_steps

AGENT, CONFIG = "agent.yaml", "config.yaml"
EDGE_MEMORY = "edge_memory.safetensors"
Observation = np.ndarray | Mapping[str, np.ndarray]


class Agent:
    """Acts towards goals given as observations, or in words.

    Args:
        hierarchy: the levels.
        heads: what was fitted to the levels.
        graphs: a landmark graph per level; empty where nothing plans over graphs.
        config: how to plan.
        spec: bounds of actions and the environment.
        num_levels: use only the lowest levels; None: all of them.
        seed: of the search; every `reset` restarts it.
        allow: packages trusted for the classes that the config names, besides hiwm's own.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        heads: Heads,
        graphs: Sequence[LandmarkGraph],
        config: PlannerConfig,
        spec: AgentSpec,
        num_levels: int | None = None,
        seed: int = 0,
        allow: Sequence[str] = (),
    ) -> None:
        self.hierarchy = hierarchy if num_levels is None else hierarchy.truncate(num_levels)
        self.heads = heads
        self.graphs = graphs
        self.config = config
        self.spec = spec
        self.seed = seed
        low, high = (torch.tensor(bound, device=hierarchy.device) for bound in (spec.action_low, spec.action_high))
        self.allow = tuple(allow)
        self.planner = make_planner(
            self.hierarchy, config, (low, high), heads, graphs, discrete=spec.discrete, allow=allow
        )
        whole = config.shrinking_horizon and not spec.goal
        self.goal_errors = half_steps(self.hierarchy, heads.action_banks) if whole else None
        self.inputs = self.hierarchy.specs[0].inputs
        #: shape and type of one primitive action as `act` gives it
        self.action_shape = () if spec.discrete else tuple(low.shape)
        self.action_dtype = np.int64 if spec.discrete else np.float32
        self._plan: Plan | None = None
        self._batch: int | None = None

    @property
    def plan(self) -> Plan:
        """The plan behind the last action. Raises a ValueError before the first `act` after `reset` or `select`."""
        if self._plan is None:
            raise ValueError("the agent has no plan since the last reset() or select(); call act(observation) first")
        return self._plan

    @property
    def edge_memory(self) -> EdgeMemory | None:
        """What the agent has learned about the edges of its landmark graph; None without `planner.failure_penalty`."""
        navigator = self.planner.navigator
        return navigator.edge_memory if isinstance(navigator, GraphNavigator) else None

    def with_planner(self, num_levels: int | None = None, **changes: Any) -> Agent:
        """An agent with the same levels and another planner; it shares no edge memory with this one.

        Args:
            num_levels: use only the lowest levels; None: all of them.
            changes: keys of `PlannerConfig`; mappings are merged, e.g. `level1={"horizon": 5}`.
        """
        levels = len(self.hierarchy) if num_levels is None else num_levels
        config = self.config.of_levels(levels, changes)
        return Agent(self.hierarchy, self.heads, self.graphs, config, self.spec, num_levels, self.seed, self.allow)

    def reset(self, goal: Observation | Goal | str | Sequence[str], episodes: Sequence[int] | None = None) -> None:
        """Begin towards a goal.

        Args:
            goal: one of the following, for one episode or, with a batch axis in front, for a batch:

                - A dict with an array per input: a whole observation. If the hierarchy was trained with `goal.columns`, the
                  dict names these columns instead, and the goal is about this part of the state alone.
                - One array, where the levels have one input: a whole observation too. Exception: if `goal.columns` is exactly
                  this input and a level has a value weight, it is a goal on the part, because the value needs one.
                - A caption or a list of captions, if the hierarchy was trained with `text.learn=true`.
                - A `Goal` (`hiwm.planning.goals`), always for a batch.

            episodes: a number for each episode of the batch; None for 0, 1, ... The random numbers of its search depend on the
                number and the agent's seed alone, so an episode draws the same in every batch.

        Raises:
            ValueError: the goal is wrong, or the planner cannot plan for it. Call `reset` again before `act`.
        """
        self._batch = self._plan = None  # a goal that is refused leaves no episode to act in
        wanted, single = (goal, False) if isinstance(goal, Goal) else self._goal(goal)
        numbers = range(wanted.size) if episodes is None else episodes
        if len(numbers) != wanted.size:
            raise ValueError(f"episodes has {len(numbers)} numbers; expected {wanted.size}, one for each goal")
        self.planner.start(wanted, EpisodeNoise.of_episodes(self.seed, numbers, self.hierarchy.device))
        self._single, self._batch = single, wanted.size

    def goal(self, goal: Observation | str | Sequence[str]) -> Goal:
        """The goal that `reset` makes of an observation or of words, to combine it with others."""
        return self._goal(goal)[0]

    def _goal(self, goal: Observation | str | Sequence[str]) -> tuple[Goal, bool]:
        """The goal, and whether it came without a batch axis."""
        observation: Any = goal  # numbers in lists are taken too
        if isinstance(goal, str):
            return self._text_goal([goal]), True
        if isinstance(goal, Sequence) and goal and isinstance(goal[0], str):
            return self._text_goal(goal), False
        if self.spec.goal and isinstance(goal, Mapping):
            if missing := [name for name in self.spec.goal if name not in goal]:
                raise ValueError(f"the goal has {sorted(goal)}; expected {missing[0]!r} too")
            return self.part_goal(goal), self._is_single(goal)
        uses_value = any(self.config.level(k).value_weight for k in range(len(self.hierarchy)))
        if uses_value and [*self.inputs] == [*self.spec.goal]:
            part = {self.spec.goal[0]: np.asarray(goal)}
            return self.part_goal(part), self._is_single(part)
        tensors, single = self._tensors(observation)
        return ObservationGoal(self.hierarchy.encode(tensors), self.goal_errors), single

    def act(self, observation: Observation) -> np.ndarray:
        """The next action, (A,) or (B, A), for an observation or a batch as large as the goals'; a number if it is discrete."""
        if self._batch is None:
            raise ValueError("reset(goal) must come before act(observation)")
        tensors, single = self._tensors(observation)
        batch = len(next(iter(tensors.values())))
        if batch != self._batch or single != self._single:
            given, wanted = (
                "a single one" if alone else f"a batch of {size}"
                for alone, size in ((single, batch), (self._single, self._batch))
            )
            raise ValueError(f"the observation is {given}; expected {wanted}, like the goal of reset()")
        self._plan = self.planner.plan(tensors)
        action = self._plan.action.numpy()
        if self.spec.discrete:
            action = action.argmax(-1)
        return action[0] if single else action

    def select(self, rows: np.ndarray) -> None:
        """Continue with some environments of the batch, given as indices or as a mask, (B,). `plan` is empty until `act`."""
        if self._batch is None:
            raise ValueError("reset(goal) must come before select(rows)")
        rows = np.asarray(rows)
        which = np.flatnonzero(rows) if rows.dtype == bool else rows  # a mask as an index waits for a GPU
        self.planner.select(upload(torch.from_numpy(which), self.hierarchy.device))
        self._batch = len(which)
        self._plan = None

    def _text_goal(self, captions: Sequence[str]) -> Goal:
        """Goals that captions describe."""
        if not self.heads.texts:
            raise ValueError(
                f"the goal is the caption {captions[0]!r}; expected a hierarchy trained with text.learn=true"
            )
        return TextGoal(embed(captions).to(self.hierarchy.device), self.heads.texts)

    def part_goal(self, part: Mapping[str, Any]) -> PartGoal:
        """A goal on a part of the state.

        Args:
            part: columns that goals are about (`goal.columns`), each of its own shape or with a batch axis in front, in its own
                unit. NaN, or a column that is left out, means that any value will do.
        """
        wanted = self._columns(part, torch.nan)
        if wanted.isnan().all(1).any():
            raise ValueError(f"the goal's {sorted(part)} hold no number; expected at least one for every episode")
        return PartGoal(wanted, self.heads.readouts, self.config.cauchy_scale)

    def region(self, low: Mapping[str, Any], high: Mapping[str, Any]) -> BoxRegion:
        """A box, whose bounds are given like the part of `part_goal`; a column that is left out is unbounded."""
        least, most = torch.broadcast_tensors(self._columns(low, -torch.inf), self._columns(high, torch.inf))
        return BoxRegion(least, most, self.heads.readouts, self.config.cauchy_scale)

    def labelled(self, states: Mapping[str, Any], forbidden: Sequence[bool]) -> LabelledRegion:
        """A region for `KeepOut`: everything that is nearer to a forbidden one of these states than to any other.

        Args:
            states: every column that goals are about, each (N, *shape), in its own unit.
            forbidden: which of them are forbidden, (N,).
        """
        labels = torch.as_tensor(np.asarray(forbidden), device=self.hierarchy.device)
        return LabelledRegion(self._columns(states, torch.nan), labels, self.heads.readouts)

    def where(self, predicate: Callable[[Mapping[str, Tensor]], Tensor]) -> PredicateRegion:
        """A region for `KeepOut`: where a predicate on the part of the state that goals are about holds; see `PredicateRegion`."""
        if not self.spec.part:
            raise ValueError("the hierarchy has no state readout; expected one trained with goal.columns")
        return PredicateRegion(predicate, self.spec.part, self.heads.readouts)

    def _columns(self, part: Mapping[str, Any], other: float) -> Tensor:
        """The columns that goals are about, concatenated, (B, G), with `other` for those that are left out."""
        shapes = self.spec.part
        if not any(name in part for name in shapes):
            raise ValueError(
                f"the goal has {sorted(part)}; expected {list(shapes) or 'none, because goal.columns is empty'}"
            )
        columns = []
        for name, shape in shapes.items():
            values = np.full(shape, other, np.float32) if name not in part else np.asarray(part[name], np.float32)
            if values.shape != shape and values.shape[1:] != shape:
                raise ValueError(
                    f"the goal's {name} has the shape {values.shape}; expected {shape} or (batch, *{shape})"
                )
            columns.append(torch.from_numpy(values.reshape(-1, math.prod(shape))).to(self.hierarchy.device))
        batch = max(len(column) for column in columns)
        if wrong := [len(column) for column in columns if len(column) not in (1, batch)]:
            raise ValueError(f"the goal is for {[batch, *wrong]} episodes; expected the same number for {list(shapes)}")
        return torch.cat([column.expand(batch, -1) for column in columns], 1)

    def _is_single(self, goal: Mapping[str, Any]) -> bool:
        return all(np.shape(goal[name]) == shape for name, shape in self.spec.part.items())

    def _tensors(self, observation: Observation) -> tuple[dict[str, Tensor], bool]:
        """Named tensors with a batch axis, and whether the observation came without one."""
        if not isinstance(observation, Mapping):
            if len(self.inputs) > 1:
                raise ValueError(
                    f"the observation is one array; expected a dict with an array for each of {sorted(self.inputs)}"
                )
            observation = {next(iter(self.inputs)): observation}
        tensors, single = {}, False
        for name, shape in self.inputs.items():
            if name not in observation:
                raise ValueError(f"the observation has {sorted(observation)}; expected {sorted(self.inputs)}")
            value = upload(torch.as_tensor(np.array(observation[name])), self.hierarchy.device)
            single = value.shape == shape
            if tuple(value.shape[-len(shape) :]) != shape or value.dim() > len(shape) + 1:
                raise ValueError(
                    f"{name} has the shape {tuple(value.shape)}; expected {shape} or (batch, *{shape}). Was the hierarchy "
                    f"trained in another environment? Its environment is {self.spec.environment.get('_target_') or 'unknown'}"
                )
            value = value.float() if value.dtype == torch.float64 else value
            tensors[name] = value.unsqueeze(0) if single else value
        sizes = {name: len(value) for name, value in tensors.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the inputs have the batch sizes {sizes}; expected the same for all")
        return tensors, single

    def save(self, folder: str | Path, config: Mapping[str, Any] | None = None) -> None:
        """Write levels, heads, graphs, edge memory and `agent.yaml`: all or none, also if the process is killed.

        Args:
            folder: a new or empty folder, or a saved hierarchy, which is replaced.
            config: that it was trained with; saved with it as `config.yaml`.

        Raises:
            ValueError: the folder contains other files.
        """
        folder = Path(folder).resolve()
        recover_folder(folder)
        if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / DESCRIPTION).exists())):
            raise ValueError(f"{folder} contains other files; expected a new or empty folder, or a saved hierarchy")
        new = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        self.heads.save(new)
        for k, graph in enumerate(self.graphs):
            graph.save(new / f"{GRAPH}{k}.safetensors")
        if self.edge_memory is not None:
            self.edge_memory.save(new / EDGE_MEMORY)
        write_yaml(new / AGENT, {"planner": plain(self.config.as_dict()), "spec": plain(asdict(self.spec))})
        if config is not None:
            write_yaml(new / CONFIG, plain(config))
        self.hierarchy.save(new)  # last, with the checksums of the other files
        replace_folder(new, folder)


def load_agent(
    folder: str | Path,
    device: str = "cpu",
    allow: Sequence[str] = (),
    *,
    planner: PlannerConfig | None = None,
    seed: int = 0,
) -> Agent:
    """Load an agent, e.g. from "runs/<experiment>/hierarchy"; runs no code from the files.

    Args:
        folder: what `hiwm train` or `Agent.save` wrote.
        device: "cpu", "cuda", ...
        allow: modules, packages or classes trusted for the parts besides hiwm's own.
        planner: how to plan; None: as saved, with the saved edge memory.
        seed: of the search.

    Raises:
        ValueError: there is no hierarchy, a file is damaged, names a class that is not trusted, or is of another version;
            the message names the file.
    """
    folder = saved_folder(Path(folder))
    hierarchy = load_hierarchy(folder, allow, device)
    heads = Heads.load(folder, len(hierarchy), device)
    graphs = load_graphs(folder, len(hierarchy), device)
    path = folder / AGENT
    described = read_yaml(path)
    try:
        if not all(isinstance(described[key], Mapping) for key in ("planner", "spec")):
            raise ValueError("planner and spec are no mappings")
        config = planner or PlannerConfig(**described["planner"])
        spec: AgentSpec = TypeAdapter(AgentSpec).validate_python(described["spec"])
        check_spec(spec, hierarchy)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is from another version of hiwm: {first_fault(error)}. `hiwm train` saves the same levels again"
        ) from error
    try:
        agent = Agent(hierarchy, heads, graphs, config, spec, seed=seed, allow=allow)
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if planner is None else str(error)) from error
    if planner is None and agent.edge_memory is not None and (folder / EDGE_MEMORY).exists():
        agent.edge_memory.load(folder / EDGE_MEMORY)
    return agent
