"""The verbs: collect, train, evaluate, run. Each says so and reuses its result where it is there already."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import yaml

from hiwm.agent import Agent, World, load_agent
from hiwm.build import build, locate
from hiwm.config import Config, ConfigError
from hiwm.console import Bar, say
from hiwm.data.collect import Collection
from hiwm.data.collect import collect as collect_episodes
from hiwm.data.store import Trajectories, Writer, open_dataset
from hiwm.envs.captions import Caption
from hiwm.evaluation.evaluate import evaluate as evaluate_agents
from hiwm.evaluation.evaluate import make_agents, summarize
from hiwm.evaluation.traces import save_traces
from hiwm.hierarchy import Hierarchy
from hiwm.planning.calibration import NOMINAL, Calibration, check_disagreement, fit_calibration, steps_ahead
from hiwm.planning.cost_to_go import AHEAD, CostToGo, fit_cost_to_go
from hiwm.planning.fitted import Fitted
from hiwm.planning.landmarks import build_landmarks
from hiwm.planning.macros import build_macros
from hiwm.planning.prior import MacroPrior, fit_prior
from hiwm.planning.proposals import Mixture
from hiwm.planning.readout import Readout, fit_readout, goal_part
from hiwm.planning.text import TextHead, check_text, fit_texts
from hiwm.progress import TrainingProgress
from hiwm.tracking import flatten, make_tracker
from hiwm.training.distributed import Processes, barrier, start_processes
from hiwm.training.fingerprint import fingerprint
from hiwm.training.stages import check_longest, describe, train_stack


def run(config: Config) -> None:
    """Collect, train, evaluate."""
    collect(config)
    train(config)
    evaluate(config)


def check(config: Config) -> None:
    """Refuse, before any work, what the config alone shows that training or planning would refuse."""
    levels = len(config.stack.levels)
    config.planner.check(levels)
    config.prior.check(levels)
    config.cost_to_go.check(levels, config.goal.columns)
    config.planner.check_learned(levels, config.prior.levels, config.cost_to_go.levels)
    _check_macros(config)
    if config.text.learn:
        try:
            check_text()
        except ImportError as error:
            raise ConfigError(f"text.learn is true: {error}") from error


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
    _check_columns(config, _observed(config), config.environment["_target_"])
    check_longest(config.stack, config.dataset.steps, "the episodes to collect")
    path.parent.mkdir(parents=True, exist_ok=True)
    collection = Collection(
        make_env=_environment(config, config.dataset.behaviour),
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
    _check_environment(config, dataset.metadata.get("environment"), config.dataset.path)
    _check_columns(config, list(dataset.columns), dataset.path)
    captions = captions_of(config, dataset) if config.text.learn else []
    _check_disagreement(config, dataset)
    tracker = make_tracker(config if processes.is_main else replace(config, tracking="none"))
    parameters = [
        {
            "level": k,
            "stride": stride,
            **parts,
            "training": asdict(config.training.changed(parts["training"])),
            "seed": config.seed,
        }
        for k, (parts, stride) in enumerate(zip(config.stack.levels, config.strides, strict=True))
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
            on_start=progress.start if processes.is_main else lambda depth, timescale: None,
            report=progress.step if processes.is_main else lambda level, step: None,
            on_level=progress.level if processes.is_main else lambda level, trained: None,
        )
    if not processes.is_main:
        barrier()
        return
    latents = [open_dataset(cache) for cache in caches]
    fitted = _fit(config, dataset, captions, hierarchy, latents, processes)
    actions = _actions(dataset)
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
    _check_environment(config, agent.world.environment, home)
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

    make_env = _environment(config, config.evaluation.environment)
    commit = _commit()  # before hours in which the code may change
    outcomes = evaluate_agents(agents, make_env, config.evaluation, config.state, report)
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
        for suffix in (".json", ".npz"):
            if (old := path.with_suffix(suffix)).exists():
                old.replace(old.with_stem(f"{path.stem}-{found['identity']}"))
        say(f"evaluation of other settings, kept as {path.stem}-{found['identity']}.json")
    save_traces(path.with_suffix(".npz"), outcomes)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(path)
    tracker = make_tracker(config)
    parameters = {"evaluation": result["protocol"], "planner": result["planner"], "seed": config.seed}
    top = agent.hierarchy.specs[-1].fingerprint
    tags = {"hiwm.identity": identity, "hiwm.hierarchy": top, "hiwm.commit": result["commit"]}
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
    _say_results(result["agents"])
    return result


def _fit(
    config: Config,
    dataset: Trajectories,
    captions: Sequence[Caption],
    hierarchy: Hierarchy,
    latents: Sequence[Trajectories],
    processes: Processes,
) -> Fitted:
    """What planning needs beside the levels, from the latents of each."""
    graphs = [build_landmarks(level, dataset.column("action"), config.landmarks, config.seed) for level in latents]
    for k, graph in enumerate(graphs):
        say(f"landmarks of level {k}: {graph.data.num_nodes:,}, {graph.data.num_edges:,} edges")
    macros = [
        build_macros(level, period, config.macros, config.seed)
        for level, period in zip(latents, hierarchy.periods, strict=True)
    ]
    return Fitted(
        graphs,
        macros,
        _fit_readouts(config, dataset, hierarchy, latents, processes),
        _fit_texts(config, captions, latents, processes),
        _fit_calibrations(config, hierarchy, latents),
        _fit_priors(config, hierarchy, latents, processes),
        _fit_costs(config, dataset, hierarchy, latents, processes),
    )


def _once(
    config: Config,
    hierarchy: Hierarchy,
    k: int,
    name: str,
    kind: Any,
    settings: Mapping[str, Any],
    fit: Callable[[], Any],
) -> Any:
    """A network fitted to level k: fitted now and kept, or what an earlier run with the same level and settings kept."""
    identity = fingerprint([hierarchy.specs[k].fingerprint, settings, config.dataset.validation, config.seed])
    path = config.folder / "fitted" / f"{name}{k}-{identity}.safetensors"
    if not path.exists():
        entry = fit()
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        entry.save(temporary)
        temporary.replace(path)
    return kind.load(path, str(next(hierarchy.parameters()).device))


def _fit_readouts(
    config: Config, dataset: Trajectories, hierarchy: Hierarchy, latents: Sequence[Trajectories], processes: Processes
) -> list[Readout]:
    """What goals are about, read from every level; none where they are whole observations."""
    if not config.goal.columns:
        return []
    part = goal_part(dataset, config.goal.columns)
    readouts = []
    for k, (level, cached, period) in enumerate(zip(hierarchy.levels, latents, hierarchy.periods, strict=True)):
        readout = _once(
            config, hierarchy, k, "readout", Readout, asdict(config.goal),
            partial(
                fit_readout, level.predictor, cached, period, part, config.goal, validation=config.dataset.validation,
                seed=config.seed, device=processes.device,
            ),
        )  # fmt: skip
        told, foreseen = (
            ", ".join(f"{error:.3g}" for error in errors.tolist()) for errors in (readout.error, readout.foreseen)
        )
        say(
            f"readout of {', '.join(config.goal.columns)} from level {k}: root mean square error {told}; of what is predicted "
            f"{period} steps ahead {foreseen}"
        )
        readouts.append(readout)
    return readouts


def _fit_priors(
    config: Config, hierarchy: Hierarchy, latents: Sequence[Trajectories], processes: Processes
) -> list[MacroPrior | None]:
    """Which macro-actions occur, of the levels that are to learn it; None for the others."""
    priors: list[MacroPrior | None] = [None] * len(hierarchy)
    for k in config.prior.levels:
        prior = _once(
            config, hierarchy, k, "prior", MacroPrior, asdict(config.prior) | {"levels": None},
            partial(
                fit_prior, latents[k], hierarchy.periods[k], config.prior,
                validation=config.dataset.validation, seed=config.seed, device=processes.device,
            ),
        )  # fmt: skip
        say(
            f"prior of level {k}: its held-out loss is {prior.relative_loss:.2f} of what N(0, I) in every state would have"
        )
        priors[k] = prior
    return priors


def _fit_costs(
    config: Config, dataset: Trajectories, hierarchy: Hierarchy, latents: Sequence[Trajectories], processes: Processes
) -> list[CostToGo | None]:
    """How far goals are, of the levels that are to learn it; None for the others."""
    costs: list[CostToGo | None] = [None] * len(hierarchy)
    for k in config.cost_to_go.levels:
        cost = _once(
            config, hierarchy, k, "cost_to_go", CostToGo,
            asdict(config.cost_to_go) | {"levels": None, "columns": list(config.goal.columns)},
            partial(
                fit_cost_to_go, latents[k], goal_part(dataset, config.goal.columns), hierarchy.periods[k],
                config.cost_to_go, validation=config.dataset.validation, seed=config.seed, device=processes.device,
            ),
        )  # fmt: skip
        steps, ahead = (", ".join(f"{number:.3g}" for number in numbers) for numbers in (AHEAD, cost.ahead.tolist()))
        say(f"cost to go of level {k}: to where held-out episodes came in {steps} steps, {ahead}")
        costs[k] = cost
    return costs


def captions_of(config: Config, dataset: Trajectories) -> list[Caption]:
    """What the environment says of the states in the data."""
    environment: Any = _environment(config, {})()
    try:
        describe = environment.get_wrapper_attr("captions")
    except AttributeError as error:
        raise ConfigError(
            f"text.learn is true, but {config.environment['_target_']} has no `captions`; allowed: an environment that has, "
            "see hiwm/envs/__init__.py"
        ) from error
    named = isinstance(environment.observation_space, gymnasium.spaces.Dict)
    return describe(dataset.columns if named else dataset.column(config.dataset.column))


def _fit_texts(
    config: Config, captions: Sequence[Caption], latents: Sequence[Trajectories], processes: Processes
) -> list[TextHead]:
    """Which latents of every level captions are true of; none without captions."""
    if not config.text.learn:
        return []
    heads = fit_texts(
        latents, captions, config.text, validation=config.dataset.validation, seed=config.seed, device=processes.device
    )
    told = ", ".join(f"{head.precision.item():.2f}" for head in heads)
    say(f"{len(captions)} captions: precision of each level's best latents, wordings and episodes held out: {told}")
    return heads


def _fit_calibrations(
    config: Config, hierarchy: Hierarchy, latents: Sequence[Trajectories]
) -> list[Calibration | None]:
    """What the disagreement of each level's ensemble is worth; None for levels without one."""
    found = []
    for k, (level, cached, period) in enumerate(zip(hierarchy.levels, latents, hierarchy.periods, strict=True)):
        calibration = fit_calibration(level, cached, period, config.dataset.validation)
        found.append(calibration)
        if calibration is not None:
            raw, scaled = calibration.raw.mean(0), calibration.scaled.mean(0)
            covered = ", ".join(
                f"{100 * before:.0f} -> {100 * after:.0f} of {100 * share:.0f}"
                for share, before, after in zip(NOMINAL, raw, scaled, strict=True)
            )
            say(
                f"ensemble of level {k}, {calibration.steps} steps ahead: squared error {calibration.scale.min():.2g} to "
                f"{calibration.scale.max():.2g} times the disagreement; intervals hold {covered} %; rank correlation "
                f"{calibration.spearman.mean():.2f}"
            )
        elif level.predictor.num_members > 1:
            say(f"ensemble of level {k}: not calibrated, for fewer than two held-out episodes hold its steps")
    return found


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


def is_one_hot(actions: np.ndarray) -> bool:
    """Whether all of them (N, A) are one-hot vectors, which is how discrete actions are stored."""
    return actions.shape[1] > 1 and bool(np.isin(actions, (0, 1)).all() and (actions.sum(1) == 1).all())


def _actions(dataset: Trajectories) -> np.ndarray:
    """The actions of the data (N, A), without those of the episodes' last rows, which lead nowhere."""
    leads = np.ones(len(dataset.column("action")), bool)
    leads[dataset.ep_offset + dataset.ep_len - 1] = False
    actions = dataset.column("action")[leads].reshape(int(leads.sum()), -1)
    if not np.isfinite(actions).all():
        raise ConfigError(f"{dataset.path}: column 'action' has values that are not finite numbers")
    return actions


def check_trained(config: Config) -> None:
    """Refuse a config that the saved hierarchy was not trained with."""
    saved = yaml.safe_load((config.folder / "config.yaml").read_text())
    wanted = config.as_dict()
    for key in (
        "inputs",
        "strides",
        "levels",
        "landmarks",
        "macros",
        "goal",
        "text",
        "prior",
        "cost_to_go",
        "training",
    ):
        if key not in saved:  # an older version's; the planner refuses what it cannot do without
            continue
        before, now = (flatten({key: described[key]}) for described in (saved, wanted))
        differ = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        if differ:
            told = ", ".join(f"{k} {before.get(k, 'none')} (the config says {now.get(k, 'none')})" for k in differ[:5])
            raise ConfigError(
                f"{config.folder / 'hierarchy'} was trained with {told}; `hiwm train` with this config first, or give another name"
            )


def _observed(config: Config) -> list[str]:
    """Columns that the environment's observations give a dataset."""
    space = _environment(config, {})().observation_space
    return list(space) if isinstance(space, gymnasium.spaces.Dict) else [config.dataset.column]


def _check_columns(config: Config, there: Sequence[str], where: object) -> None:
    """Refuse columns that an environment or a dataset does not have, by the key that asks for them."""
    for key, names in (("inputs", config.inputs), ("state", config.state), ("goal.columns", config.goal.columns)):
        if missing := [name for name in names if name not in there]:
            raise ConfigError(f"{key} holds {missing[0]!r}; allowed: {sorted(there)}, the columns of {where}")


def _check_macros(config: Config) -> None:
    """Refuse before training what the planner would refuse after it."""
    top = len(config.stack.levels) - 1
    for k in range(top + (config.planner.landmarks != "direct" or top == 0)):  # direct: the top level does not search
        horizon = config.planner.horizon[k]
        if Mixture.of(config.planner.proposal[k]).asks_bank and horizon > config.macros.length:
            raise ConfigError(
                f"macros.length is {config.macros.length}; allowed: at least planner.horizon[{k}], {horizon}, for "
                f"planner.proposal[{k}] is {config.planner.proposal[k]!r}"
            )


def _check_disagreement(config: Config, dataset: Trajectories) -> None:
    """Refuse before training what the planner would refuse after it."""
    if not any(config.planner.disagreement):
        return
    specs = describe(config.stack, config.training, dataset, config.seed)
    for k, (spec, weight) in enumerate(zip(specs, config.planner.disagreement, strict=False)):
        predictor, period = spec.build(config.allow).predictor, math.prod(config.strides[: k + 1])
        if weight:
            steps = steps_ahead(predictor, dataset, period, config.dataset.validation)
            check_disagreement(k, weight, predictor, steps, config.planner.horizon[k])


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


def _environment(config: Config, more: Mapping[str, Any]) -> Callable[[], gymnasium.Env]:
    """What makes the environment, with some more arguments."""
    description = {**config.environment, **more}
    target = description.get("_target_")
    if target is None:
        raise ConfigError("environment has no _target_; it names the environment's class")
    locate(target, config.allow)
    return partial(build, description, config.allow)


def _collection_config(config: Config) -> dict[str, Any]:
    dataset = config.dataset
    return {
        "environment": {**config.environment, **dataset.behaviour},
        "policy": dataset.policy,
        "episodes": dataset.episodes,
        "steps": dataset.steps,
        "seed": dataset.seed,
    }


def _check_environment(config: Config, found: Any, where: object) -> None:
    if found is not None and dict(found) != dict(config.environment):
        raise ConfigError(
            f"{where} belongs to the environment {dict(found)}, the config says {dict(config.environment)}"
        )


def evaluation_identity(config: Config, agent: Agent) -> str:
    """Stands for the hierarchy, the planner and the protocol of an evaluation."""
    parts = [
        [spec.fingerprint for spec in agent.hierarchy.specs],
        asdict(config.planner), asdict(config.landmarks), asdict(config.macros), asdict(config.goal),
        asdict(config.prior), asdict(config.cost_to_go), asdict(config.evaluation),
        config.environment, config.seed,
    ]  # fmt: skip
    return fingerprint(parts)
