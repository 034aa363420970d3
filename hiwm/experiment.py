"""The verbs: collect, train, evaluate, run. Each says so and reuses its result where it is there already."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

import hiwm
from hiwm.agent import Agent, World, load_agent
from hiwm.build import build
from hiwm.config import Config, ConfigError
from hiwm.console import Bar, say
from hiwm.data.collect import Collection
from hiwm.data.collect import collect as collect_episodes
from hiwm.data.store import Trajectories, Writer, open_dataset
from hiwm.environment import captions_of, environment_of, observed_columns
from hiwm.evaluation.evaluate import evaluate as evaluate_agents
from hiwm.evaluation.evaluate import make_agents, summarize
from hiwm.evaluation.traces import save_traces
from hiwm.fitter import Fitter
from hiwm.preflight import (
    FITTED,
    actions_of,
    check,
    check_columns,
    check_environment,
    check_trained,
    check_untrained,
    is_one_hot,
)
from hiwm.progress import TrainingProgress
from hiwm.tracking import make_tracker
from hiwm.training.distributed import Processes, barrier, start_processes
from hiwm.training.fingerprint import fingerprint
from hiwm.training.specs import training_of
from hiwm.training.stages import train_stack
from hiwm.training.windows import check_longest


def run(config: Config) -> None:
    """Collect, train, evaluate."""
    collect(config)
    train(config)
    evaluate(config)


def collect(config: Config) -> Trajectories:
    """Make the dataset of the config, go on with one that was interrupted, or open it."""
    _one_process("collect")
    path = Path(config.dataset.path)
    wanted = _collection_config(config)
    if path.exists():
        dataset = open_dataset(path)
        made = dataset.metadata.get("collection")
        if made not in (None, wanted):
            raise ConfigError(
                f"dataset.path: {path} was collected with {made}, the config says {wanted}; give another dataset.path or "
                "remove the file"
            )
        say(f"dataset {path}: {len(dataset.ep_len):,} episodes, {dataset.num_steps:,} steps, reused")
        return dataset
    if path.suffix == ".npz":
        raise ConfigError(
            f"dataset.path: there is no {path}, and an .npz is not collected here; allowed: a path that ends in .h5"
        )
    check(config)
    check_columns(config, observed_columns(config), config.environment["_target_"])
    check_longest(config.stack, config.dataset.steps, "the episodes to collect")
    path.parent.mkdir(parents=True, exist_ok=True)
    collection = Collection(
        make_env=environment_of(config, config.dataset.behaviour),
        make_policy=partial(build, config.dataset.policy, config.allow),
        episodes=config.dataset.episodes,
        steps=config.dataset.steps,
        seed=config.dataset.seed,
        column=config.dataset.column,
    )
    metadata = {"environment": config.environment, "collection": wanted}
    with Writer(path, metadata, resume=True) as writer:
        there = len(writer.ep_len)
        if there:
            say(f"dataset {path}: {there:,} of {collection.episodes:,} episodes are there, going on")
        with Bar("collect", collection.episodes, "episodes", there) as bar:
            for done, episode in enumerate(collect_episodes(collection, config.dataset.workers, there), there + 1):
                writer.append(episode)
                bar.update(done)
    dataset = open_dataset(path)
    say(
        f"dataset {path}: {len(dataset.ep_len):,} episodes, {dataset.num_steps:,} steps, fingerprint {dataset.fingerprint}"
    )
    return dataset


def train(config: Config) -> None:
    """Train the levels that are not there yet, build the landmark graphs, keep real actions, save the hierarchy."""
    processes = _prepare(config)
    check(config)
    dataset = open_dataset(config.dataset.path)
    check_environment(config, dataset.metadata.get("environment"), config.dataset.path)
    check_columns(config, list(dataset.columns), dataset.path)
    actions = actions_of(dataset)
    check_untrained(config, dataset, actions)
    captions = captions_of(config, dataset)
    tracker = make_tracker(config if processes.is_main else replace(config, tracking="none"))
    parameters = [
        {
            "level": k,
            **parts,
            "training": training_of(k, config.training, parts).as_dict(),
            "seed": config.seed,
        }
        for k, parts in enumerate(config.stack.levels)
    ]
    title = f"{len(parameters)} levels jointly" if config.training.joint else ""
    with TrainingProgress(tracker, parameters, dataset.fingerprint, title) as progress:
        hierarchy, caches = train_stack(
            config.stack,
            config.training,
            dataset,
            seed=config.seed,
            folder=config.folder / "levels",
            processes=processes,
            on_start=progress.start if processes.is_main else lambda coverage, timescale: None,
            report=progress.step if processes.is_main else lambda level, step: None,
            on_level=progress.level if processes.is_main else lambda level, trained: None,
        )
    if not processes.is_main:
        barrier()
        return
    latents = [open_dataset(cache) for cache in caches]
    fitted = Fitter(config, dataset, hierarchy, latents, processes.device).all(captions)
    low, high, discrete = actions.min(0).tolist(), actions.max(0).tolist(), is_one_hot(actions)
    shapes = [dataset.column(name).shape[1:] for name in config.goal.columns]
    world = World(config.environment, low, high, dataset.fingerprint, config.goal.columns, shapes, discrete)
    agent = Agent(hierarchy, fitted, config.planner, world, seed=config.seed, allow=config.allow)
    home = config.folder / "hierarchy"
    agent.save(home)
    (config.folder / "config.yaml").write_text(yaml.safe_dump(config.as_dict(), sort_keys=False))
    parent = tracker.parent()
    parent.artifact(home)
    parent.artifact(config.folder / "config.yaml")
    parent.finish()
    say(f"hierarchy of {len(hierarchy)} levels, periods {list(hierarchy.periods)} steps, saved: {home}")
    barrier()


def evaluate(config: Config) -> dict[str, Any]:
    """Evaluate the saved hierarchy and its baselines; write `evaluation.json`."""
    _one_process("evaluate")
    processes = _prepare(config)
    home = config.folder / "hierarchy"
    agent = load_agent(home, str(processes.device), config.allow)
    check_environment(config, agent.world.environment, home)
    check_trained(config)
    agent = Agent(agent.hierarchy, agent.fitted, config.planner, agent.world, seed=config.seed, allow=config.allow)
    agents = make_agents(agent, config.evaluation)
    identity = evaluation_identity(config, agent)
    path = config.folder / f"{config.evaluation.name}.json"
    if path.exists() and (found := json.loads(path.read_text()))["identity"] == identity:
        say(f"evaluation {path}: reused")
        _say_results(found["agents"])
        return found
    bars: dict[str, Bar] = {}

    def report(name: str, done: int, won: int, of: int) -> None:
        if name not in bars:
            bars[name] = Bar(name, of, "episodes")
            bars[name].__enter__()
        bars[name].update(done, f"{won}/{done} solved")
        if done == of:
            bars[name].__exit__(None, None, None)

    make_env = environment_of(config, config.evaluation.environment)
    commit = _commit()  # before hours in which the code may change
    # of this code alone: batches of other code must not end up under its commit
    parts = config.folder / f"{config.evaluation.name}-{identity}-{commit or hiwm.__version__}.parts"
    if commit.endswith("+"):  # which may be any code
        shutil.rmtree(parts, ignore_errors=True)
    if parts.exists():
        say(f"evaluation {path}: going on with {len([*parts.rglob('*.json')])} batches of episodes that are done")
    outcomes = evaluate_agents(agents, make_env, config.evaluation, config.state, report, parts)
    result = {
        "identity": identity,
        "experiment": config.name,
        "seed": config.seed,
        "protocol": asdict(config.evaluation),
        "planner": asdict(config.planner),
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads",
        "agents": {name: summarize(outcome) for name, outcome in outcomes.items()},
    }
    if path.exists():  # of other settings; hours may have gone into it
        other = json.loads(path.read_text())["identity"]
        for suffix in (".json", ".npz"):
            if (old := path.with_suffix(suffix)).exists():
                old.replace(old.with_stem(f"{path.stem}-{other}"))
        say(f"evaluation of other settings, kept as {path.stem}-{other}.json")
    save_traces(path.with_suffix(".npz"), outcomes)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(path)
    for old in config.folder.glob(f"{config.evaluation.name}-{identity}-*.parts"):
        shutil.rmtree(old)
    _record(config, agent, result, path)
    _say_results(result["agents"])
    return result


def _record(config: Config, agent: Agent, result: dict[str, Any], path: Path) -> None:
    """Tell the tracker of an evaluation that lies at the path."""
    tracker = make_tracker(config)
    parameters = {"evaluation": result["protocol"], "planner": result["planner"], "seed": config.seed}
    top = agent.hierarchy.specs[-1].fingerprint
    tags = {"hiwm.identity": result["identity"], "hiwm.hierarchy": top, "hiwm.commit": result["commit"]}
    child = tracker.child(config.evaluation.name, parameters, tags)
    for name, numbers in result["agents"].items():
        child.metrics(
            {f"{name}/{key}": numbers[key] for key in ("success", "episodes", "predictor_calls", "other_calls")}
        )
        child.metrics({f"{name}/interval_low": numbers["interval"][0], f"{name}/interval_high": numbers["interval"][1]})
        if numbers["steps"]:
            child.metrics({f"{name}/steps_mean": numbers["steps"]["mean"]})
        child.metrics({f"{name}/plan_ms_{which}": value for which, value in numbers["plan_ms"].items()})
        child.metrics({f"{name}/task{task}": rate["success"] for task, rate in numbers["per_task"].items()})
    child.artifact(path)
    child.finish()
    tracker.parent().metrics({f"success/{name}": numbers["success"] for name, numbers in result["agents"].items()})


def _say_results(agents: dict[str, Any]) -> None:
    for name, numbers in agents.items():
        low, high = numbers["interval"]
        say(
            f"{name:>20}: {100 * numbers['success']:5.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {numbers['episodes']} episodes, "
            f"{numbers['plan_ms']['mean']:.2f} ms and {numbers['predictor_calls']:.0f} predictor calls an environment step"
        )
        if violations := numbers.get("violations"):
            low, high = violations["interval"]
            say(
                f"{'':>20}  {100 * violations['share']:5.1f} % [{100 * low:.1f}, {100 * high:.1f}] enter the forbidden region, "
                f"{violations['steps']:.2f} steps inside"
            )


def _commit() -> str:
    """Of the code that runs, "+" behind it where files differ; "" outside a clone."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout else "")


def _one_process(verb: str) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(f"{verb} runs in one process; allowed under torchrun: train")


def _prepare(config: Config) -> Processes:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return start_processes(config.device)


def _collection_config(config: Config) -> dict[str, Any]:
    dataset = config.dataset
    return {
        "environment": {**config.environment, **dataset.behaviour},
        "policy": dataset.policy,
        "episodes": dataset.episodes,
        "steps": dataset.steps,
        "seed": dataset.seed,
    }


def evaluation_identity(config: Config, agent: Agent) -> str:
    """Stands for the hierarchy, the planner and the protocol of an evaluation."""
    parts = [
        [spec.fingerprint for spec in agent.hierarchy.specs],
        *(asdict(getattr(config, section)) for section in (*FITTED, "planner", "evaluation")),
        config.environment, config.seed,
    ]  # fmt: skip
    return fingerprint(parts)
