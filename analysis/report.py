"""`hiwm report`: one self-contained page of an experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Template
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

import hiwm
from hiwm.agent import Agent
from hiwm.analysis import figures
from hiwm.analysis.decode import frame_decoder, predicted_frames, states_at
from hiwm.analysis.history import load_history
from hiwm.analysis.ladder import read_ladder
from hiwm.analysis.page import asset, assets, fitting, inline
from hiwm.analysis.questions import DIAGNOSTICS, Finding, Study, ask
from hiwm.analysis.uncertainty import calibration_curves, summary
from hiwm.analysis.verdict import comparisons, headline
from hiwm.analysis.viewer import LIMIT, Scene, Viewer
from hiwm.config import Config, ConfigError
from hiwm.console import say
from hiwm.data.store import Trajectories
from hiwm.envs.oracle import Wall
from hiwm.evaluation.evaluate import make_agents
from hiwm.evaluation.outcomes import Trace
from hiwm.evaluation.results import read_results
from hiwm.evaluation.traces import load_traces
from hiwm.experiment.evaluation import evaluation_identity
from hiwm.experiment.session import exclusive
from hiwm.files import read_text, write_json, write_text
from hiwm.heads.calibration import NOMINAL, Calibration
from hiwm.heads.value import AHEAD
from hiwm.planning.graph.navigator import GraphNavigator
from hiwm.tracking import make_tracker
from hiwm.training.checkpoint import load_metrics
from hiwm.training.diagnostics.runner import Diagnostics
from hiwm.validate import differences, load_trained

MISSING = "–"  # noqa: RUF001
NOTHING = {
    "head": "",
    "tables": "",
    "frames": "",
    "episodes": [],
    "left_out": [],
}  # what the viewer shows of no episode
WORDS_LEFT_OUT = 2000  # bytes of the sentences on what is left out
NO_EPISODES = "The recorded episodes are of an older version of hiwm. Remove the results of the evaluation, and `hiwm evaluate` records new ones."


@exclusive
def report(config: Config) -> Path:
    """Write `report.html`, `diagnostics.json` and `figures/*.png` into the experiment's folder, from the files of training and evaluation."""
    agent = load_trained(config)
    results = config.folder / f"{config.evaluation.name}.json"
    evaluation = read_results(results) if results.exists() else None
    if evaluation is not None and evaluation["identity"] != evaluation_identity(config, agent):
        raise ConfigError(
            f"{results} belongs to {_other(config, evaluation)}. Run `hiwm evaluate` with this configuration first"
        )
    diagnostics = Diagnostics.from_config(config.diagnostics, config.allow)
    levels = [_describe(config, agent, k) for k in range(len(agent.hierarchy))]
    study = Study.of_config(config, agent, evaluation, config.folder)
    dataset = study.dataset
    findings = find(config, study)
    traces = {} if evaluation is None else load_traces(config.folder / f"{config.evaluation.name}.npz")
    scene = _scene(config, agent, dataset, study.walls, evaluated=evaluation is not None)
    study.close()
    folder = config.folder / "figures"
    folder.mkdir(exist_ok=True)
    with rc_context({"text.parse_math": False}):  # a "$" in a name is no formula
        drawn = _draw(config, agent, dataset, evaluation, traces, diagnostics, scene)
        drawn |= {name: finding.figure for name, finding in findings.items() if finding.figure is not None}
        for name, figure in drawn.items():
            figure.savefig(folder / f"{name}.png", dpi=130)
    values = dict(
        title=config.folder.name,
        environment=", ".join(str(value).rpartition(".")[2] for value in config.environment.values() if value)
        or "a dataset",
        seed=config.seed,
        version=hiwm.__version__,
        machine=evaluation["machine"] if evaluation else "",
        acts=bool(config.environment["_target_"]),
        **(_result(evaluation["agents"]) if evaluation else {}),
        protocol=_protocol(config),
        levels=levels,
        findings=findings,
        read=_read(agent, dataset),
        learned=_learned(agent),
        calibrated={k: summary(calibration) for k, calibration in _calibrated(agent).items()},
        nominal=", ".join(f"{100 * share:.0f}" for share in NOMINAL),
        diagnostics=_measured(diagnostics, [level["metrics"] for level in levels]),
        added=diagnostics.added,
        alarms=[f"level {k}: {x}" for k, level in enumerate(levels) for x in diagnostics.alarms(level["metrics"])],
        maps_differ=study.on_map and study.maps_differ,
        hierarchy_graph=config.planner.graph,
        figures={name: inline((folder / f"{name}.png").read_bytes()) for name in drawn},
        config=read_text(config.folder / "config.yaml"),
    )
    path = config.folder / "report.html"
    write_text(path, _page(values, traces, scene))
    with make_tracker(config) as tracker:
        tracker.parent().metrics(
            {key: value for finding in findings.values() for key, value in finding.numbers.items()}
        )
        tracker.parent().artifact(path)
        tracker.parent().artifact(folder)
    say(f"report: {path}")
    return path


def _other(config: Config, evaluation: Mapping[str, Any]) -> str:
    """How an evaluation differs from that of the config, in words."""
    wanted = {"planner": config.planner.as_dict(), "evaluation": config.evaluation.as_dict(), "seed": config.seed}
    saved = {"planner": evaluation["planner"], "evaluation": evaluation["protocol"], "seed": evaluation["seed"]}
    differ = differences(saved, wanted)
    return f"an evaluation with {differ[0]}" if differ else "an earlier hierarchy of this run"


def _scene(config: Config, agent: Agent, dataset: Trajectories, walls: Sequence[Wall], evaluated: bool) -> Scene:
    """The scene of an experiment."""
    labels = _numbers(dataset, config.state)
    labels[: 2 if walls else 0] = ["x (world units)", "y (world units)"] if walls else []
    agents = make_agents(agent, config.evaluation) if evaluated else {}
    planners = {name: each.planner for name, each in agents.items()}
    graphs = {name: each.top for name, each in planners.items() if isinstance(each.navigator, GraphNavigator)}
    return Scene(agent, dataset, config.state, walls, labels, graphs)


def _page(values: Mapping[str, Any], traces: Mapping[str, Sequence[Trace]], scene: Scene) -> str:
    """The page, with as many recorded episodes as fit into it."""
    parts = {**assets(), **{f"viewer_{kind}": asset(f"viewer.{kind}") for kind in ("css", "js", "html")}}
    parts["plotly_js"] = Markup(get_plotlyjs()) if traces else Markup()
    template = Template(files("hiwm.analysis").joinpath("report.html").read_text(), autoescape=True)
    viewer = Viewer(traces, scene) if traces else None

    def render(pictures: Mapping[str, str], shown: Mapping[str, Any]) -> str:
        marked = {name: Markup(shown[name]) for name in ("head", "tables", "frames")}
        marked |= {"episodes": [Markup(each) for each in shown["episodes"]], "left_out": shown["left_out"]}
        missing = [f"figures/{name}.png" for name in values["figures"] if name not in pictures]
        seen = {"figures": pictures, "missing": missing, "viewer": marked if viewer else None}
        return template.render(**{**values, **parts, **seen}, no_episodes=NO_EPISODES)

    # failures come first, then figures, then successes, then frames
    least = viewer.least if viewer else 0
    pictures = fitting(values["figures"], LIMIT - WORDS_LEFT_OUT - len(render({}, NOTHING).encode()) - least)
    bare = render(pictures, NOTHING)
    return render(pictures, viewer.fill(LIMIT - WORDS_LEFT_OUT - len(bare.encode()))) if viewer else bare


def _result(agents: Mapping[str, Any]) -> dict[str, Any]:
    """What the first screen says."""
    found = comparisons(agents)
    best = max(numbers["success"] for numbers in agents.values()) or None
    return {"agents": agents, "headline": headline(agents, found), "comparisons": found if best else [], "best": best}


def find(config: Config, study: Study) -> dict[str, Finding]:
    """The answers to the questions, and those of `hiwm ladder` if it has run; also written to `diagnostics.json`."""
    with rc_context({"text.parse_math": False}):  # a "$" in a name is no formula
        findings = dict(ask(study))
        if (ladder := read_ladder(config, study.agent)) is not None:
            findings["ladder"] = ladder
    said = {name: {"sentence": finding.sentence, "metrics": finding.numbers} for name, finding in findings.items()}
    write_json(config.folder / DIAGNOSTICS, said)
    return findings


def _draw(
    config: Config,
    agent: Agent,
    dataset: Trajectories,
    evaluation: Any,
    traces: Mapping[str, Sequence[Trace]],
    diagnostics: Diagnostics,
    scene: Scene,
) -> dict[str, Figure]:
    drawn: dict[str, Figure] = {}
    homes = [config.levels_folder / spec.fingerprint for spec in agent.hierarchy.specs]
    histories = {k: load_history(home) for k, home in enumerate(homes)}
    if histories := {k: records for k, records in histories.items() if records}:
        drawn["curves"] = figures.curves(histories, diagnostics)
    if calibrated := _calibrated(agent):
        drawn["calibration"] = calibration_curves(calibrated, dict(enumerate(agent.hierarchy.periods)))
    if frame_decoder(agent.hierarchy.levels[0]) is not None:
        drawn["frames"] = figures.frames(predicted_frames(agent, dataset.split(config.dataset.validation)[1]))
    where = [states_at(dataset, config.state, graph.data.row.numpy()) for graph in agent.graphs]
    on_map = len(scene.labels) >= 2
    if on_map and where:
        drawn["landmarks"] = figures.landmark_graphs(agent.graphs, where, scene.walls, scene.labels)
    if evaluation is not None:
        drawn["success"] = figures.success_bars(evaluation["agents"])
        if on_map and traces:
            graphs = {name: (agent.graphs[level], where[level]) for name, level in scene.graphs.items()}
            drawn["episodes"] = figures.episodes(traces, scene.decoder, graphs, scene.walls, scene.labels)
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


def _protocol(config: Config) -> str:
    e = config.evaluation
    budget = "the same budget as" if e.baseline_budget == 1 else f"{e.baseline_budget:g} times the budget of"
    return (
        f"{e.num_tasks} tasks, evaluation seed {e.seed}, at most {e.max_steps} steps, success at the first arrival. "
        f"The baselines have {budget} the hierarchy, in predictor calls. Intervals hold for these tasks and this training seed."
    )
