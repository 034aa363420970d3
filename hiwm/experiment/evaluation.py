"""The command evaluate."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

import hiwm
from hiwm.agent import Agent, load_agent
from hiwm.config import Config
from hiwm.console import Bar, say
from hiwm.environment import check_evaluating, environment_of
from hiwm.evaluation.evaluate import evaluate as evaluate_agents
from hiwm.evaluation.evaluate import make_agents, summarize
from hiwm.evaluation.traces import save_traces
from hiwm.experiment.session import commit, one_process, start
from hiwm.tracking import make_tracker
from hiwm.training.fingerprint import fingerprint
from hiwm.validate import FITTED, check_environment, check_trained


def evaluate(config: Config) -> dict[str, Any]:
    """Evaluate the saved hierarchy and its baselines; write `<evaluation.name>.json`."""
    one_process("evaluate")
    agent = _agent(config, str(start(config).device))
    agents = make_agents(agent, config.evaluation)
    identity, path = evaluation_identity(config, agent), config.folder / f"{config.evaluation.name}.json"
    if path.exists() and (found := json.loads(path.read_text()))["identity"] == identity:
        say(f"evaluation {path}: reused")
        _say_results(found["agents"])
        return found
    check_evaluating(config)
    code = commit()  # now, because the code may change during the evaluation
    # batches of other code must not end up under this commit
    parts = config.folder / f"{config.evaluation.name}-{identity}-{code or hiwm.__version__}.parts"
    if code.endswith("+"):  # uncommitted code may be any code
        shutil.rmtree(parts, ignore_errors=True)
    if parts.exists():
        say(f"evaluation {path}: continues after {len([*parts.rglob('*.json')])} finished batches of episodes")
    make_env = environment_of(config, config.evaluation.environment)
    outcomes = evaluate_agents(agents, make_env, config.evaluation, config.state, Bars(), parts)
    result = {
        "identity": identity,
        "experiment": config.name,
        "seed": config.seed,
        "protocol": config.evaluation.as_dict(),
        "planner": config.planner.as_dict(),
        "commit": code,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads",
        "agents": {name: summarize(outcome) for name, outcome in outcomes.items()},
    }
    _keep_other_results(path)
    save_traces(path.with_suffix(".npz"), outcomes)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(path)
    for old in config.folder.glob(f"{config.evaluation.name}-{identity}-*.parts"):
        shutil.rmtree(old)
    _record(config, agent, result, path)
    _say_results(result["agents"])
    return result


def _agent(config: Config, device: str) -> Agent:
    """The saved agent, with the planner of the config."""
    home = config.folder / "hierarchy"
    check_trained(config)
    agent = load_agent(home, device, config.allow, planner=config.planner, seed=config.seed)
    check_environment(config, agent.spec.environment, home)
    return agent


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
    other = json.loads(path.read_text())["identity"]
    for suffix in (".json", ".npz"):
        if (old := path.with_suffix(suffix)).exists():
            old.replace(old.with_stem(f"{path.stem}-{other}"))
    say(f"evaluation {path}: results of other settings, now in {path.stem}-{other}.json")


def _record(config: Config, agent: Agent, result: dict[str, Any], path: Path) -> None:
    """Record an evaluation, saved at the path, with the tracker."""
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
    described = config.as_dict()
    parts = [
        [spec.fingerprint for spec in agent.hierarchy.specs],
        *(described[section] for section in (*FITTED, "planner", "evaluation")),
        config.environment, config.seed,
    ]  # fmt: skip
    return fingerprint(parts)
