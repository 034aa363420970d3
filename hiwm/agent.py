"""Receding-horizon agent: observations in, actions out, many environments at once."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from hiwm.heads.heads import Heads
from hiwm.heads.state_readout import StateReadout
from hiwm.heads.text import TextHead, embed
from hiwm.hierarchy import Hierarchy, load_hierarchy
from hiwm.planning.config import PlannerConfig
from hiwm.planning.graph.edge_memory import EdgeMemory
from hiwm.planning.goals import Goal, KeepOut, LabelledStates, ObservationGoal, PartGoal, Region, TextGoal, Where
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.planning.plan import Plan
from hiwm.planning.planner import HierarchicalPlanner
from hiwm.planning.schedule import half_steps

EXPERIENCE = "experience.safetensors"
GRAPH = "landmarks"  # and the number of the level
Observation = np.ndarray | Mapping[str, np.ndarray]


@dataclass(frozen=True)
class World:
    """What an agent must know of the world it was trained in.

    Args:
        environment: its config, `_target_` and arguments.
        action_low, action_high: bounds of primitive actions in the data.
        dataset: fingerprint of the data.
        goal: columns of an observation that goals are about; none for all of it.
        goal_shapes: of each of them.
        discrete: whether actions are one of several options, one-hot vectors in the data.
    """

    environment: Mapping[str, Any]
    action_low: Sequence[float]
    action_high: Sequence[float]
    dataset: str
    goal: Sequence[str] = ()
    goal_shapes: Sequence[Sequence[int]] = ()
    discrete: bool = False

    @property
    def part(self) -> dict[str, tuple[int, ...]]:
        """Columns that goals are about, and their shapes."""
        return dict(zip(self.goal, map(tuple, self.goal_shapes), strict=True))


class Agent:
    """Acts towards goals given as observations, or in words.

    Args:
        hierarchy: the levels.
        heads: of its levels.
        graphs: landmarks of its levels; none where nothing plans over them.
        config: how to plan.
        world: bounds of actions and the environment.
        num_levels: use only the lowest ones; None for all.
        seed: of the search; `reset` starts its randomness anew.
        allow: packages trusted for the solver's class besides hiwm's own.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        heads: Heads,
        graphs: Sequence[LandmarkGraph],
        config: PlannerConfig,
        world: World,
        num_levels: int | None = None,
        seed: int = 0,
        allow: Sequence[str] = (),
    ) -> None:
        self.hierarchy = hierarchy if num_levels is None else hierarchy.truncate(num_levels)
        self.heads = heads
        self.graphs = graphs
        self.config = config
        self.world = world
        self.seed = seed
        low, high = (torch.tensor(bound, device=hierarchy.device) for bound in (world.action_low, world.action_high))
        self.allow = tuple(allow)
        self.planner = HierarchicalPlanner(self.hierarchy, config, low, high, heads, graphs, allow, world.discrete)
        whole = config.schedule != "fixed" and not world.goal
        self.goal_errors = half_steps(self.hierarchy, heads.action_banks) if whole else None
        self.inputs = self.hierarchy.specs[0].inputs
        #: shape and type of one primitive action as `act` gives it
        self.action_shape = () if world.discrete else tuple(low.shape)
        self.action_dtype = np.int64 if world.discrete else np.float32
        self._plan: Plan | None = None
        self._batch: int | None = None

    @property
    def plan(self) -> Plan:
        """The plan behind the last action."""
        if self._plan is None:
            raise ValueError("there is no plan before the first act()")
        return self._plan

    @property
    def readouts(self) -> Sequence[StateReadout]:
        """Of the part of the state that goals are about, from each level; none where goals are whole observations."""
        return self.heads.readouts

    @property
    def texts(self) -> Sequence[TextHead]:
        """Which latents of each level a caption is true of; none where goals are not given in words."""
        return self.heads.texts

    @property
    def edge_memory(self) -> EdgeMemory | None:
        """What acting has taught about the landmark graph; None where nothing is learned from it."""
        ways = self.planner.ways
        return None if ways is None else ways.edge_memory

    def with_planner(self, num_levels: int | None = None, **changes: Any) -> Agent:
        """The same levels planning otherwise, with nothing remembered: `changes` are keys of PlannerConfig."""
        known = [field.name for field in fields(PlannerConfig)]
        if unknown := sorted(changes.keys() - set(known)):
            raise ValueError(f"unknown key planner.{unknown[0]}; allowed: {', '.join(known)}")
        config = replace(self.config, **changes)
        return Agent(self.hierarchy, self.heads, self.graphs, config, self.world, num_levels, self.seed, self.allow)

    def reset(self, goal: Observation | Goal | str | Sequence[str]) -> None:
        """Begin towards a goal observation, or a batch of them: one array, or a dict with one for each input.

        A caption or a list of them is a goal too where the stack was trained with `text.learn=true`.

        Where goals are about a part of the state, `World.goal`, a dict needs those columns only; one array is a whole
        observation all the same, unless a cost to go asks for the part and the array is that part. Other goals
        (`hiwm.planning.goals`) are made of `part_goal` and `region`, and are always a batch.
        """
        wanted, self._single = (goal, False) if isinstance(goal, Goal) else self._goal(goal)
        self._batch = wanted.size
        self.planner.start(wanted, torch.Generator(self.hierarchy.device).manual_seed(self.seed))
        self._plan = None

    def goal(self, goal: Observation | str | Sequence[str]) -> Goal:
        """The goal that `reset` makes of an observation or of words, to combine it with others."""
        return self._goal(goal)[0]

    def _goal(self, goal: Observation | str | Sequence[str]) -> tuple[Goal, bool]:
        """The goal, and whether it came without a batch axis."""
        observation: Any = goal  # numbers in lists are taken too
        if isinstance(goal, str):
            return self._said([goal]), True
        if isinstance(goal, Sequence) and goal and isinstance(goal[0], str):
            return self._said(goal), False
        if self.world.goal and isinstance(goal, Mapping):
            if missing := [name for name in self.world.goal if name not in goal]:
                raise ValueError(f"the goal has {sorted(goal)}; needed: a dict with {missing[0]!r} too")
            return self.part_goal(goal), self._is_single(goal)
        if any(self.config.cost_to_go) and [*self.inputs] == [*self.world.goal]:
            part = {self.world.goal[0]: np.asarray(goal)}
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
            here, there = (
                "one without a batch axis" if alone else f"a batch of {size}"
                for alone, size in ((single, batch), (self._single, self._batch))
            )
            raise ValueError(f"the observation is {here}, the goal of reset() was {there}; allowed: the same")
        self._plan = self.planner.plan(tensors)
        action = self._plan.action.cpu().numpy()
        if self.world.discrete:
            action = action.argmax(-1)
        return action[0] if single else action

    def keep(self, rows: np.ndarray) -> None:
        """Go on with some environments of the batch: indices or a mask, (B,)."""
        which = torch.as_tensor(rows, device=self.hierarchy.device)
        self.planner.keep(which)
        self._batch = int(which.sum()) if which.dtype == torch.bool else len(which)

    def _said(self, captions: Sequence[str]) -> Goal:
        """The goals that captions say."""
        if not self.texts:
            raise ValueError(f"goals are captions, {captions[0]!r}, which needs a stack trained with text.learn=true")
        return TextGoal(embed(captions).to(self.hierarchy.device), self.texts)

    def part_goal(self, part: Mapping[str, Any]) -> PartGoal:
        """What a part of the state is to be.

        Args:
            part: columns that goals are about (`goal.columns`), each of its own shape or with a batch axis in front, in its own
                unit; not a number, or a column that is not there: does not matter.
        """
        wanted = self._columns(part, torch.nan)
        if wanted.isnan().all(1).any():
            raise ValueError(f"the goal's {sorted(part)} hold no number; allowed: at least one for every episode")
        return PartGoal(wanted, self.readouts, self.config.goal_width)

    def region(self, low: Mapping[str, Any], high: Mapping[str, Any]) -> Region:
        """Anywhere in a box: its bounds as `part_goal` takes a part; a column that is not there has none."""
        least, most = torch.broadcast_tensors(self._columns(low, -torch.inf), self._columns(high, torch.inf))
        return Region(least, most, self.readouts, self.config.goal_width)

    def labelled(self, states: Mapping[str, Any], forbidden: Sequence[bool]) -> LabelledStates:
        """To keep out of: whatever is nearer to a forbidden one of these states than to any other of them.

        Args:
            states: every column that goals are about, each (N, *shape), in its own unit.
            forbidden: which of them are, (N,).
        """
        labels = torch.as_tensor(np.asarray(forbidden), device=self.hierarchy.device)
        return LabelledStates(self._columns(states, torch.nan), labels, self.readouts)

    def where(self, predicate: Callable[[Mapping[str, Tensor]], Tensor]) -> Where:
        """To keep out of: wherever a predicate on the part of the state that goals are about holds; see `Where`."""
        if not self.world.part:
            raise ValueError("nothing tells where the agent is; allowed: where goal.columns were trained with")
        return Where(predicate, self.world.part, self.readouts)

    def _columns(self, part: Mapping[str, Any], other: float) -> Tensor:
        """The columns that goals are about, side by side, (B, G), with `other` for those that are not there."""
        shapes = self.world.part
        if not any(name in part for name in shapes):
            raise ValueError(
                f"the goal has {sorted(part)}; allowed: {list(shapes) or 'none, for goal.columns is empty'}"
            )
        columns = []
        for name, shape in shapes.items():
            values = np.full(shape, other, np.float32) if name not in part else np.asarray(part[name], np.float32)
            if values.shape != shape and values.shape[1:] != shape:
                raise ValueError(
                    f"the goal's {name} has the shape {values.shape}; allowed: {shape} or (batch, *{shape})"
                )
            columns.append(torch.from_numpy(values.reshape(-1, math.prod(shape))).to(self.hierarchy.device))
        batch = max(len(column) for column in columns)
        if wrong := [len(column) for column in columns if len(column) not in (1, batch)]:
            raise ValueError(f"goals of {[batch, *wrong]} episodes; allowed: the same for {list(shapes)}")
        return torch.cat([column.expand(batch, -1) for column in columns], 1)

    def _is_single(self, goal: Mapping[str, Any]) -> bool:
        return all(np.shape(goal[name]) == shape for name, shape in self.world.part.items())

    def _tensors(self, observation: Observation) -> tuple[dict[str, Tensor], bool]:
        """Named tensors with a batch dimension, and whether there was none."""
        if not isinstance(observation, Mapping):
            if len(self.inputs) > 1:
                raise ValueError(
                    f"one array for the inputs {sorted(self.inputs)}; allowed: a dict with an array for each"
                )
            observation = {next(iter(self.inputs)): observation}
        tensors, single = {}, False
        for name, shape in self.inputs.items():
            if name not in observation:
                raise ValueError(f"the observation has {sorted(observation)}; needed: {sorted(self.inputs)}")
            value = torch.as_tensor(np.array(observation[name]), device=self.hierarchy.device)
            single = value.shape == shape
            if tuple(value.shape[-len(shape) :]) != shape or value.dim() > len(shape) + 1:
                raise ValueError(
                    f"{name} has the shape {tuple(value.shape)}; allowed: {shape} or (batch, *{shape}). Was the hierarchy "
                    f"trained in another environment? Its own is {self.world.environment.get('_target_') or 'not known'}"
                )
            value = value.float() if value.dtype == torch.float64 else value
            tensors[name] = value.unsqueeze(0) if single else value
        sizes = {name: len(value) for name, value in tensors.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"batches of different sizes: {sizes}; allowed: the same for all inputs")
        return tensors, single

    def save(self, folder: Path) -> None:
        """Write levels, heads, landmarks, experience and `agent.yaml`: all or none."""
        temporary = folder.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        self.hierarchy.save(temporary)
        self.heads.save(temporary)
        for k, graph in enumerate(self.graphs):
            graph.save(temporary / f"{GRAPH}{k}.safetensors")
        if self.experience is not None:
            self.experience.save(temporary / EXPERIENCE)
        described = {"planner": _plain(asdict(self.config)), "world": _plain(asdict(self.world))}
        (temporary / "agent.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
        if folder.exists():
            if any(folder.iterdir()) and not (folder / "hierarchy.yaml").exists():
                raise ValueError(f"{folder} holds other files; allowed: a new or empty folder, or a saved hierarchy")
            shutil.rmtree(folder)
        temporary.rename(folder)


def load_agent(folder: str | Path, device: str = "cpu", allow: Sequence[str] = ()) -> Agent:
    """Load levels, landmarks, real actions and planner config, e.g. from "runs/<experiment>/hierarchy"; runs no code from the files.

    Args:
        folder: what `hiwm train` or `Agent.save` wrote.
        device: "cpu", "cuda", ...
        allow: packages trusted for the parts' classes besides hiwm's own.

    Raises:
        ValueError: another version of hiwm wrote it.
    """
    folder = Path(folder)
    hierarchy = load_hierarchy(folder, allow, device)
    described = yaml.safe_load((folder / "agent.yaml").read_text())
    if unknown := sorted(described["planner"].keys() - {field.name for field in fields(PlannerConfig)}):
        raise ValueError(
            f"{folder / 'agent.yaml'} is another version's: it has planner.{unknown[0]}; `hiwm train` again saves the same levels anew"
        )
    heads = Heads.load(folder, len(hierarchy), device)
    files = [folder / f"{GRAPH}{k}.safetensors" for k in range(len(hierarchy))]
    graphs = [LandmarkGraph.load(file, device) for file in files if file.exists()]
    config, world = PlannerConfig(**described["planner"]), World(**described["world"])
    agent = Agent(hierarchy, heads, graphs, config, world, allow=allow)
    if agent.experience is not None and (folder / EXPERIENCE).exists():
        agent.experience.load(folder / EXPERIENCE)
    return agent


def _plain(value: Any) -> Any:
    """Tuples as lists, mappings as dicts, for YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
