"""The command evaluate."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hiwm.agent import Agent
from hiwm.config import Config
from hiwm.console import Bar, say
from hiwm.environment import check_evaluating, environment_of
from hiwm.evaluation.evaluate import evaluate as evaluate_agents
from hiwm.evaluation.evaluate import make_agents, summarize
from hiwm.evaluation.results import read_results
from hiwm.evaluation.traces import save_traces
from hiwm.experiment.session import code_fingerprint, commit, exclusive, start
from hiwm.files import write_json
from hiwm.tracking import make_tracker
from hiwm.training.distributed import Processes, barrier
from hiwm.training.fingerprint import fingerprint
from hiwm.validate import FITTED, load_trained


@exclusive
def evaluate(config: Config) -> dict[str, Any]:
    """Evaluate the saved hierarchy and its baselines; write `<evaluation.name>.json`."""
    processes = start(config)
    agent = load_trained(config, str(processes.device))
    agents = make_agents(agent, config.evaluation)
    identity, path = evaluation_identity(config, agent), config.folder / f"{config.evaluation.name}.json"
    if path.exists() and (found := read_results(path))["identity"] == identity:
        if processes.is_main:
            say(f"evaluation {path}: reused")
            _record(config, agent, found, path)  # an earlier command may have been killed before it did
            _say_results(found["agents"])
        return found
    check_evaluating(config)
    code, source = commit(), code_fingerprint()  # now, because the code may change during the evaluation
    # batches of other code must not end up under this commit
    parts = config.folder / f"{config.evaluation.name}-{identity}-{source}.parts"
    if processes.is_main and parts.exists():
        say(f"evaluation {path}: continues after {len([*parts.rglob('*.json')])} finished batches of episodes")
    barrier()  # no process adds a batch before
    make_env = environment_of(config, config.evaluation.environment)
    bars = Bars() if processes.is_main else (lambda *_: None)
    outcomes = evaluate_agents(agents, make_env, config.evaluation, config.state, bars, parts, processes)
    if processes.is_main:
        result = {
            "identity": identity,
            "experiment": config.name,
            "seed": config.seed,
            "protocol": config.evaluation.as_dict(),
            "planner": config.planner.as_dict(),
            "commit": code,
            "machine": _machine(processes),
            "agents": {name: summarize(outcome) for name, outcome in outcomes.items()},
        }
        _keep_other_results(path)
        save_traces(path.with_suffix(".npz"), outcomes)
        write_json(path, result)
        for old in config.folder.glob(f"{config.evaluation.name}-{identity}-*.parts"):
            shutil.rmtree(old)
        _record(config, agent, result, path)
        _say_results(result["agents"])
    barrier()
    return read_results(path)


def _machine(processes: Processes) -> str:
    number = torch.get_num_threads()
    threads = "1 thread" if number == 1 else f"{number} threads"
    text = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {threads}"
    return text if processes.world_size == 1 else f"{text} in each of {processes.world_size} processes"


class Bars:
    """A progress bar per agent."""

    def __init__(self) -> None:
        self.bars: dict[str, Bar] = {}

    def __call__(self, agent: str, done: int, won: int, of: int) -> None:
        """Show that `done` of the agent's `of` episodes are finished, and that `won` of them are solved."""
        if agent not in self.bars:
            self.bars[agent] = Bar(agent, of, "episodes")
            self.bars[agent].__enter__()
        self.bars[agent].update(done, f"{won}/{done} solved")
        if done == of:
            self.bars[agent].__exit__(None, None, None)


def _keep_other_results(path: Path) -> None:
    """Rename results of other settings instead of overwriting them."""
    if not path.exists():
        return
    other = read_results(path)["identity"]
    for suffix in (".json", ".npz"):
        if (old := path.with_suffix(suffix)).exists():
            old.replace(old.with_stem(f"{path.stem}-{other}"))
    say(f"evaluation {path}: results of other settings, now in {path.stem}-{other}.json")


def _record(config: Config, agent: Agent, result: dict[str, Any], path: Path) -> None:
    """Record an evaluation, saved at the path, with the tracker."""
    parameters = {"evaluation": result["protocol"], "planner": result["planner"], "seed": config.seed}
    top = agent.hierarchy.specs[-1].fingerprint
    tags = {"hiwm.identity": result["identity"], "hiwm.hierarchy": top, "hiwm.commit": result["commit"]}
    name = config.evaluation.name
    with make_tracker(config, result["commit"]) as tracker:
        if tracker.has_finished(name, "hiwm.identity", result["identity"]):
            return
        child = tracker.child(name, parameters, tags)
        for agent_name, numbers in result["agents"].items():
            child.metrics(_metrics(agent_name, numbers))
        child.artifact(path)
        success = {f"success/{agent}": numbers["success"] for agent, numbers in result["agents"].items()}
        tracker.parent().metrics(success)
        child.finish()


def _metrics(name: str, numbers: dict[str, Any]) -> dict[str, float]:
    """What is tracked of one agent's results."""
    metrics = {key: numbers[key] for key in ("success", "episodes", "predictor_calls", "other_calls")}
    metrics |= {"interval_low": numbers["interval"][0], "interval_high": numbers["interval"][1]}
    if numbers["steps"]:
        metrics["steps_mean"] = numbers["steps"]["mean"]
    metrics |= {f"plan_ms_{which}": value for which, value in numbers["plan_ms"].items()}
    metrics |= {f"task{task}": rate["success"] for task, rate in numbers["per_task"].items()}
    return {f"{name}/{key}": value for key, value in metrics.items()}


def _say_results(agents: dict[str, Any]) -> None:
    for name, numbers in agents.items():
        low, high = numbers["interval"]
        say(
            f"{name:>20}: {100 * numbers['success']:5.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {numbers['episodes']} episodes, "
            f"{numbers['plan_ms']['mean']:.2f} ms and {numbers['predictor_calls']:.0f} predictor calls per environment step"
        )
        if violations := numbers.get("violations"):
            low, high = violations["interval"]
            say(
                f"{'':>20}  {100 * violations['share']:5.1f} % [{100 * low:.1f}, {100 * high:.1f}] enter the forbidden region, "
                f"{violations['steps']:.2f} steps inside"
            )


def evaluation_identity(config: Config, agent: Agent) -> str:
    """Fingerprint of the hierarchy, the planner and the protocol of an evaluation."""
    return identity_of_levels(config, [spec.fingerprint for spec in agent.hierarchy.specs])


def identity_of_levels(config: Config, levels: Sequence[str]) -> str:
    """`evaluation_identity` from the fingerprints of the levels, bottom first, which need no training."""
    described = config.as_dict()
    parts = [
        list(levels),
        *(described[section] for section in (*FITTED, "planner", "evaluation")),
        config.environment, config.seed,
    ]  # fmt: skip
    return fingerprint(parts)
