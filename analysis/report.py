"""`hiwm report`: one self-contained page of an experiment."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Template
from matplotlib import rc_context
from matplotlib.figure import Figure

import hiwm
from hiwm.agent import Agent, load_agent
from hiwm.analysis import figures
from hiwm.analysis.decode import StateDecoder, frame_decoder, predicted_frames, states_at
from hiwm.analysis.ladder import read_ladder
from hiwm.analysis.questions import DIAGNOSTICS, Finding, Study, ask
from hiwm.analysis.uncertainty import calibration_curves, summary
from hiwm.config import Config, ConfigError
from hiwm.console import say
from hiwm.data.store import Trajectories, open_dataset
from hiwm.environment import environment_of
from hiwm.evaluation.evaluate import HIERARCHICAL, make_agents
from hiwm.evaluation.outcomes import Trace
from hiwm.evaluation.results import read_results
from hiwm.evaluation.traces import load_traces
from hiwm.experiment.evaluation import evaluation_identity
from hiwm.experiment.session import exclusive
from hiwm.files import read_text, write_json
from hiwm.heads.calibration import NOMINAL, Calibration
from hiwm.heads.value import AHEAD
from hiwm.planning.graph.navigator import GraphNavigator
from hiwm.tracking import make_tracker
from hiwm.training.checkpoint import load_metrics
from hiwm.training.diagnostics.runner import Diagnostics
from hiwm.validate import check_trained

MISSING = "–"  # noqa: RUF001


@exclusive
def report(config: Config) -> Path:
    """Write `report.html`, `diagnostics.json` and `figures/*.png` into the experiment's folder, from the files of training and evaluation."""
    agent = load_agent(config.folder / "hierarchy", allow=config.allow, planner=config.planner, seed=config.seed)
    check_trained(config, agent)
    dataset = open_dataset(config.dataset.path)
    results = config.folder / f"{config.evaluation.name}.json"
    evaluation = read_results(results) if results.exists() else None
    if evaluation is not None and evaluation["identity"] != evaluation_identity(config, agent):
        raise ConfigError(
            f"{results} belongs to another hierarchy, planner or protocol. Run `hiwm evaluate` with this configuration first"
        )
    diagnostics = Diagnostics.from_config(config.diagnostics, config.allow)
    levels = [_describe(config, agent, k) for k in range(len(agent.hierarchy))]
    findings = find(config, agent, evaluation)
    traces = {} if evaluation is None else load_traces(config.folder / f"{config.evaluation.name}.npz")
    folder = config.folder / "figures"
    folder.mkdir(exist_ok=True)
    with rc_context({"text.parse_math": False}):  # a "$" in a name is no formula
        drawn = _draw(config, agent, dataset, evaluation, traces, diagnostics)
        drawn |= {name: finding.figure for name, finding in findings.items() if finding.figure is not None}
        for name, figure in drawn.items():
            figure.savefig(folder / f"{name}.png", dpi=130)
    page = Template(files("hiwm.analysis").joinpath("report.html").read_text(), autoescape=True).render(
        title=config.folder.name,
        environment=", ".join(str(value).rpartition(".")[2] for value in config.environment.values() if value)
        or "a dataset",
        seed=config.seed,
        version=hiwm.__version__,
        machine=evaluation["machine"] if evaluation else "",
        agents=evaluation["agents"] if evaluation else None,
        headline=_headline(evaluation["agents"]) if evaluation else "",
        best=max(numbers["success"] for numbers in evaluation["agents"].values()) or None if evaluation else None,
        protocol=_protocol(config),
        reasons={trace.task: moments(trace.why) for trace in traces.get(HIERARCHICAL, []) if trace.why},
        levels=levels,
        findings=findings,
        read=_read(agent, dataset),
        learned=_learned(agent),
        calibrated={k: summary(calibration) for k, calibration in _calibrated(agent).items()},
        nominal=", ".join(f"{100 * share:.0f}" for share in NOMINAL),
        diagnostics=_measured(diagnostics, [level["metrics"] for level in levels]),
        added=diagnostics.added,
        alarms=[f"level {k}: {x}" for k, level in enumerate(levels) for x in diagnostics.alarms(level["metrics"])],
        figures={name: _inline(folder / f"{name}.png") for name in drawn},
        config=read_text(config.folder / "config.yaml"),
    )
    path = config.folder / "report.html"
    path.write_text(page)
    with make_tracker(config) as tracker:
        tracker.parent().metrics(
            {key: value for finding in findings.values() for key, value in finding.numbers.items()}
        )
        tracker.parent().artifact(path)
        tracker.parent().artifact(folder)
    say(f"report: {path}")
    return path


def find(config: Config, agent: Agent, evaluation: Mapping[str, Any] | None) -> dict[str, Finding]:
    """The answers to the questions, and those of `hiwm ladder` if it has run; also written to `diagnostics.json`."""
    with rc_context({"text.parse_math": False}):  # a "$" in a name is no formula
        study = Study.of_config(config, agent, evaluation, config.folder)
        findings = dict(ask(study))
        study.close()
        if (ladder := read_ladder(config, agent)) is not None:
            findings["ladder"] = ladder
    said = {name: {"sentence": finding.sentence, "metrics": finding.numbers} for name, finding in findings.items()}
    write_json(config.folder / DIAGNOSTICS, said)
    return findings


def moments(why: Sequence[str]) -> list[str]:
    """The first, the middle and the last plan of an episode; fewer if there are fewer."""
    return [why[i] for i in sorted({0, len(why) // 2, len(why) - 1})]


def _draw(
    config: Config,
    agent: Agent,
    dataset: Trajectories,
    evaluation: Any,
    traces: Mapping[str, Sequence[Trace]],
    diagnostics: Diagnostics,
) -> dict[str, Figure]:
    drawn: dict[str, Figure] = {}
    histories = {k: _history(config, agent, k) for k in range(len(agent.hierarchy))}
    if histories := {k: records for k, records in histories.items() if records}:
        drawn["curves"] = figures.curves(histories, diagnostics)
    if calibrated := _calibrated(agent):
        drawn["calibration"] = calibration_curves(calibrated, dict(enumerate(agent.hierarchy.periods)))
    if frame_decoder(agent.hierarchy.levels[0]) is not None:
        drawn["frames"] = figures.frames(predicted_frames(agent, dataset.split(config.dataset.validation)[1]))
    where = [states_at(dataset, config.state, graph.data.row.numpy()) for graph in agent.graphs]
    walls = []
    if config.environment["_target_"]:
        environment: Any = environment_of(config)()
        walls = getattr(environment, "walls", [])  # optional in the contract of hiwm.envs
        environment.close()
    on_map = where[0].shape[1] >= 2
    labels = ["x (world units)", "y (world units)"] if walls else _numbers(dataset, config.state)
    if on_map:
        drawn["landmarks"] = figures.landmark_graphs(agent.graphs, where, walls, labels)
    if evaluation is not None:
        drawn["success"] = figures.success_bars(evaluation["agents"])
        if on_map:
            graphs = {}
            for name, planned in make_agents(agent, config.evaluation).items():
                if isinstance(navigator := planned.planner.navigator, GraphNavigator):
                    graphs[name] = (navigator.graph, where[planned.planner.top])
            drawn["episodes"] = figures.episodes(
                traces, StateDecoder(agent, dataset, config.state), graphs, walls, labels
            )
    return drawn


def _numbers(dataset: Trajectories, columns: Sequence[str]) -> list[str]:
    """Names of the columns' numbers, in order: place[0], place[1], ..."""
    sizes = {name: math.prod(dataset.column(name).shape[1:]) for name in columns}
    return [f"{name}[{i}]" for name, size in sizes.items() for i in range(size)]


def _read(agent: Agent, dataset: Trajectories) -> list[dict[str, Any]]:
    """Readout errors of every number in goals: from encoded and from predicted latents, level by level."""
    if not agent.heads.readouts:
        return []
    errors = torch.stack(
        [error for readout in agent.heads.readouts for error in (readout.error, readout.prediction_error)], 1
    )
    rows = zip(_numbers(dataset, agent.spec.goal), agent.heads.readouts[0].std.tolist(), errors.tolist(), strict=True)
    return [{"name": name, "std": std, "errors": its} for name, std, its in rows]


def _learned(agent: Agent) -> list[str]:
    """One sentence for every action prior and value head: what it has learned."""
    priors = [
        f"action prior of level {k}: its held-out loss is {prior.relative_loss:.2f} times the loss of N(0, I) in every state "
        "(1: nothing to learn)"
        for k, prior in enumerate(agent.heads.action_priors)
        if prior is not None
    ]
    costs = [
        f"value head of level {k}: median number of steps to states that held-out episodes reached in "
        + ", ".join(f"{n} steps: {steps:.3g}" for n, steps in zip(AHEAD, cost.ahead.tolist(), strict=True))
        for k, cost in enumerate(agent.heads.values)
        if cost is not None
    ]
    return priors + costs


def _calibrated(agent: Agent) -> dict[int, Calibration]:
    """Calibrations of the levels that have an ensemble."""
    return {k: calibration for k, calibration in enumerate(agent.heads.calibrations) if calibration is not None}


def _describe(config: Config, agent: Agent, k: int) -> dict[str, Any]:
    level, spec = agent.hierarchy.levels[k], agent.hierarchy.specs[k]
    return {
        "stride": level.stride,
        "period": agent.hierarchy.periods[k],
        "encoder": type(level.encoder).__name__,
        "dim": level.encoder.dim,
        "dim_action": level.action_encoder.dim,
        "fingerprint": spec.fingerprint,
        "metrics": load_metrics(config.levels_folder / spec.fingerprint),
    }


def _measured(diagnostics: Diagnostics, metrics: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Rows of the table of diagnostics; a dash where a level was trained without one."""
    return [
        {
            "label": diagnostic.label,
            "description": diagnostic.description,
            "cells": [
                diagnostic.format.format(m[diagnostic.name]) if diagnostic.name in m else MISSING for m in metrics
            ],
        }
        for diagnostic in diagnostics
    ]


def _history(config: Config, agent: Agent, k: int) -> list[dict[str, Any]]:
    path = config.levels_folder / agent.hierarchy.specs[k].fingerprint / "history.jsonl"
    if not path.exists():
        return []
    records = [record for line in read_text(path).splitlines() if (record := _record(line)) is not None]
    # a training that was killed and resumed has written some steps twice; added diagnostics may come later
    merged: dict[tuple[int, bool], dict[str, Any]] = {}
    for record in records:
        merged.setdefault((record["step"], "loss/total" in record), {}).update(record)
    return list(merged.values())


def _record(line: str) -> dict[str, Any] | None:
    """A line of a history; None if a kill or a crash has cut it off."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    numbers = isinstance(record, dict) and all(isinstance(value, (int, float)) for value in record.values())
    return record if numbers and isinstance(record.get("step"), int) else None


def _headline(agents: dict[str, Any]) -> str:
    def rate(name: str) -> str:
        numbers = agents[name]
        low, high = numbers["interval"]
        return f"{100 * numbers['success']:.1f} % [{100 * low:.0f}, {100 * high:.0f}] of {numbers['episodes']} episodes"

    whole = agents[HIERARCHICAL]
    sentence = (
        f"The hierarchy succeeds in {rate(HIERARCHICAL)}, with {whole['predictor_calls']:.0f} predictor calls and "
        f"{whole['other_calls']:.0f} passes through other networks per environment step."
    )
    others = [
        f"{name} {rate(name)} ({numbers['predictor_calls'] / whole['predictor_calls']:.2f} times its predictor calls, "
        f"{numbers['other_calls']:.0f} other passes)"
        for name, numbers in agents.items()
        if name != HIERARCHICAL
    ]
    return f"{sentence} Baselines: {', '.join(others)}." if others else sentence


def _protocol(config: Config) -> str:
    e = config.evaluation
    budget = "the same budget as" if e.baseline_budget == 1 else f"{e.baseline_budget:g} times the budget of"
    return (
        f"{e.num_tasks} tasks, starts and goals drawn with seed {e.seed}, at most {e.max_steps} steps, success at the first arrival. "
        f"The baselines have {budget} the hierarchy, in predictor calls."
    )


def _inline(image: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
