"""Receding-horizon agent: observations in, actions out, many environments at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from hiwm.agent_spec import GRAPH, AgentSpec, check_spec, first_fault, load_graphs, plain
from hiwm.envs.contract import check_contract
from hiwm.envs.gym import GymEnvironment
from hiwm.evaluation.episodes import run_episodes
from hiwm.evaluation.evaluate import summarize
from hiwm.files import read_yaml, recover_folder, replace_folder, saved_folder, write_yaml
from hiwm.goal_maker import GoalMaker
from hiwm.heads.heads import Heads
from hiwm.hierarchy import DESCRIPTION, Hierarchy, load_hierarchy
from hiwm.levels.device import upload
from hiwm.observation import Observation, to_tensors
from hiwm.planning.assemble import make_planner
from hiwm.planning.config import PlannerConfig
from hiwm.planning.goals import BoxRegion, Goal, LabelledRegion, PartGoal, PredicateRegion
from hiwm.planning.graph.edge_memory import EdgeMemory
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.planning.graph.navigator import GraphNavigator
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.plan import Plan

AGENT, CONFIG = "agent.yaml", "config.yaml"
HIERARCHY = "hierarchy"  # folder of a run that holds the agent
EDGE_MEMORY = "edge_memory.safetensors"


class Agent:
    """Acts towards goals given as observations, or in words.

    `reset(goal)` begins an episode or a batch of episodes, `act(observation)` gives their next actions, `plan` is the plan behind
    them, and `select(rows)` continues with the running episodes.

    Args:
        hierarchy: the levels.
        heads: what was fitted to the levels.
        graphs: a landmark graph per level; empty where nothing plans over graphs.
        config: how to plan.
        spec: bounds of actions and the environment.
        num_levels: use only the lowest levels; None: all of them.
        seed: of the search; `reset` draws the same random numbers again.
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
        self.goal_maker = GoalMaker(self.hierarchy, heads, config, spec)
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
        return self.variant(self.config.of_levels(levels, changes), num_levels)

    def variant(self, config: PlannerConfig, num_levels: int | None = None) -> Agent:
        """As `with_planner`, with a whole planner configuration."""
        return Agent(self.hierarchy, self.heads, self.graphs, config, self.spec, num_levels, self.seed, self.allow)

    def evaluate(
        self,
        env: str | gymnasium.Env | Callable[[], gymnasium.Env],
        *,
        num_tasks: int | None = None,
        episodes: int = 10,
        max_steps: int = 500,
        num_envs: int = 10,
        seed: int = 1,
    ) -> dict[str, Any]:
        """Success rate, steps and compute of the agent in an environment; see `hiwm.evaluation.evaluate.summarize`.

        The agent's own episodes, plan and edge memory stay as they are. With an edge memory, each episode starts with an empty one.

        Args:
            env: id of a Gymnasium environment, a function that makes one with the contract of `hiwm.envs`, or such an environment.
            num_tasks: run the tasks 1 to `num_tasks`; None: all tasks that the environment says it has, or one.
            episodes: per task.
            max_steps: of an episode, environment steps.
            num_envs: episodes that are planned together; 1 with a single environment or an edge memory.
            seed: of starts and goals.

        Raises:
            ContractError: something is missing in the environment; the message names it.
        """
        if isinstance(env, str):
            env = partial(GymEnvironment, id=env)
        elif isinstance(env, gymnasium.Env):
            env, num_envs = partial(_KeptOpen, env), 1
        column = next(iter(self.inputs))
        check_contract(env, getattr(env, "__name__", "env"), column, goal=self.spec.goal or list(self.inputs))
        if num_tasks is None:
            made = env()
            num_tasks = int(made.get_wrapper_attr("num_tasks")) if made.has_wrapper_attr("num_tasks") else 1
            made.close()
        agent = self.variant(self.config)
        num_envs = num_envs if agent.edge_memory is None else 1  # the episodes of a batch would share it
        outcome = run_episodes(
            agent, env, num_tasks=num_tasks, episodes=episodes, max_steps=max_steps, num_envs=num_envs, seed=seed,
            state=self.spec.goal or list(self.inputs), report=lambda *_: None,
        )  # fmt: skip
        return summarize(outcome)

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"level {k}: {type(level.encoder).__name__}, {level.encoder.dim} numbers, {period} step{'s' * (period > 1)} apart"
            for k, (level, period) in enumerate(zip(self.hierarchy.levels, self.hierarchy.periods, strict=True))
        )
        shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in self.inputs.items())
        return f"Agent({shapes}; {sizes}; plans with graph={self.config.graph!r})"

    def encode(self, observation: Observation) -> list[np.ndarray]:
        """The latent of every level, bottom first: (D_k,) each, or (B, D_k) for a batch of observations."""
        tensors, single = to_tensors(observation, self.hierarchy, self.spec)
        latents = [latent.cpu().numpy() for latent in self.hierarchy.encode(tensors)]
        return [latent[0] for latent in latents] if single else latents

    def reset(self, goal: Observation | Goal | str | Sequence[str], episodes: Sequence[int] | None = None) -> None:
        """Begin episodes towards a goal; what was left of others is dropped. The edge memory stays.

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
        wanted, single = (goal, False) if isinstance(goal, Goal) else self.goal_maker.goal(goal)
        numbers = range(wanted.size) if episodes is None else episodes
        if len(numbers) != wanted.size:
            raise ValueError(f"episodes has {len(numbers)} numbers; expected {wanted.size}, one for each goal")
        wanted = self.goal_maker.in_steps(wanted)
        self.planner.start(wanted, EpisodeNoise.of_episodes(self.seed, numbers, self.hierarchy.device))
        self._single, self._batch = single, wanted.size

    def goal(self, goal: Observation | str | Sequence[str]) -> Goal:
        """The goal that `reset` makes of an observation or of words, to combine it with others."""
        return self.goal_maker.goal(goal)[0]

    def part_goal(self, part: Mapping[str, Any]) -> PartGoal:
        """A goal on a part of the state; see `GoalMaker.part_goal`."""
        return self.goal_maker.part_goal(part)

    def region(self, low: Mapping[str, Any], high: Mapping[str, Any]) -> BoxRegion:
        """A box in the part of the state that goals are about; see `GoalMaker.region`."""
        return self.goal_maker.region(low, high)

    def labelled(self, states: Mapping[str, Any], forbidden: Sequence[bool]) -> LabelledRegion:
        """The region around labelled states; see `GoalMaker.labelled`."""
        return self.goal_maker.labelled(states, forbidden)

    def where(self, predicate: Callable[[Mapping[str, Tensor]], Tensor]) -> PredicateRegion:
        """The region where a predicate holds; see `GoalMaker.where`."""
        return self.goal_maker.where(predicate)

    def act(self, observation: Observation) -> np.ndarray:
        """The next action, (A,) or (B, A), for an observation or a batch as large as the goals'; a number if it is discrete."""
        if self._batch is None:
            raise ValueError("reset(goal) must come before act(observation)")
        tensors, single = to_tensors(observation, self.hierarchy, self.spec)
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
        """Go on with some episodes of the batch, given as indices or as a mask, (B,). There is no `plan` until the next `act`."""
        if self._batch is None:
            raise ValueError("reset(goal) must come before select(rows)")
        rows = np.asarray(rows)
        which = np.flatnonzero(rows) if rows.dtype == bool else rows  # a mask as an index waits for a GPU
        self.planner.select(upload(torch.from_numpy(which), self.hierarchy.device))
        self._batch = len(which)
        self._plan = None

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


class _KeptOpen(gymnasium.Wrapper):
    """An environment that belongs to the caller, who closes it."""

    def close(self) -> None: ...


def load_agent(
    folder: str | Path,
    device: str = "cpu",
    allow: Sequence[str] = (),
    *,
    planner: PlannerConfig | None = None,
    seed: int = 0,
) -> Agent:
    """Load an agent, e.g. from `runs/<experiment>`; runs no code from the files.

    Args:
        folder: what `hiwm train` or `Agent.save` wrote: a hierarchy, a run, or an experiment with one run.
        device: "cpu", "cuda", ...
        allow: modules, packages or classes trusted for the parts besides hiwm's own.
        planner: how to plan; None: as saved, with the saved edge memory.
        seed: of the search.

    Raises:
        ValueError: there is no hierarchy or more than one, a file is damaged, names a class that is not trusted, or is of another version;
            the message names the file.
    """
    folder = saved_folder(_hierarchy_in(Path(folder)))
    hierarchy = load_hierarchy(folder, allow, device)
    heads = Heads.load(folder, len(hierarchy), device)
    graphs = load_graphs(folder, len(hierarchy), device)
    path = folder / AGENT
    described = read_yaml(path)
    try:
        if not all(isinstance(described[key], Mapping) for key in ("planner", "spec")):
            raise ValueError("planner and spec are not mappings")
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


def _hierarchy_in(folder: Path) -> Path:
    """The folder of the saved hierarchy in that of a run or of an experiment."""
    if (saved_folder(folder) / DESCRIPTION).exists():
        return folder
    homes = [folder / HIERARCHY, *sorted(path / HIERARCHY for path in folder.glob("*/"))]
    found = [home for home in homes if saved_folder(home).exists()]
    if len(found) > 1 and found[0] != homes[0]:
        raise ValueError(f"{folder} has several hierarchies; expected one of {', '.join(str(home) for home in found)}")
    return found[0] if found else folder
