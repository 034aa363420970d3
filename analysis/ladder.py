"""`hiwm ladder`: replace one part of one level at a time by the truth, to see which part of which level limits success."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hiwm.agent import Agent
from hiwm.analysis.questions.drawing import color, plain
from hiwm.analysis.questions.study import Finding, Study
from hiwm.analysis.tables import markdown
from hiwm.analysis.truth import OracleAgent, TrueDistance, TrueDynamics, TrueSubgoals, Truth
from hiwm.config import Config, ConfigError
from hiwm.console import say
from hiwm.environment import check_evaluating, environment_of
from hiwm.evaluation.config import HIERARCHICAL
from hiwm.evaluation.evaluate import evaluate, summarize
from hiwm.evaluation.statistics import bootstrap_interval, outcomes_of
from hiwm.experiment.evaluation import Bars, evaluation_identity
from hiwm.experiment.session import code_fingerprint, exclusive, one_process, start
from hiwm.files import read_json, write_json, write_text
from hiwm.planning.strategies.strategy import Strategy
from hiwm.tracking import make_tracker
from hiwm.validate import load_trained

LADDER = "ladder.json"
AS_TRAINED = "as trained"
PARTS: Mapping[str, Callable[[Strategy, Truth], Strategy]] = {
    "true subgoals": TrueSubgoals,
    "true distance": TrueDistance,
    "true dynamics": TrueDynamics,
    "true distance and dynamics": lambda strategy, truth: TrueDistance(TrueDynamics(strategy, truth), truth),
}


@exclusive
def ladder(config: Config) -> dict[str, Any]:
    """Evaluate the hierarchy with every replacement, and write `ladder.json`, `ladder.md` and `figures/ladder.png` into its folder.

    It runs `evaluation.baseline_episodes` episodes of each task, and at most `evaluation.episodes`.

    Raises:
        ConfigError: the environment cannot tell the truth.
    """
    one_process("ladder")
    start(config)
    agent = load_trained(config)
    identity, path = evaluation_identity(config, agent), config.folder / LADDER
    if path.exists() and (found := read_json(path)).get("identity") == identity:
        say(f"ladder {path}: reused")
        _say(found)
        return found
    if config.evaluation.goal is not None or config.evaluation.forbidden.margin is not None:
        raise ConfigError(
            "evaluation.goal or evaluation.forbidden.margin is set; expected null for `hiwm ladder`, whose goals are goal observations"
        )
    check_evaluating(config)
    agents = rungs(Study.of_config(config, agent), str(config.environment.get("_target_")))
    protocol = config.evaluation.changed(
        {"episodes": min(config.evaluation.episodes, config.evaluation.baseline_episodes), "attempts": 1}
    )
    parts = config.folder / f"ladder-{identity}-{code_fingerprint()}.parts"
    make_env = environment_of(config, config.evaluation.environment)
    outcomes = evaluate(agents, make_env, protocol, config.state, Bars(), parts)
    numbers = {name: summarize(outcome) for name, outcome in outcomes.items()}
    result = {
        "identity": identity,
        "hierarchy": agent.hierarchy.specs[-1].fingerprint,
        "graph": config.planner.graph,
        "rungs": compare(numbers),
    }
    write_json(path, result)
    finding = described(result)
    write_text(config.folder / "ladder.md", f"{in_words(result)}\n\n{finding.sentence}\n")
    figures = config.folder / "figures"
    figures.mkdir(exist_ok=True)
    assert finding.figure is not None
    finding.figure.savefig(figures / "ladder.png", dpi=130)
    for old in config.folder.glob(f"ladder-{identity}-*.parts"):
        shutil.rmtree(old)
    with make_tracker(config) as tracker:
        tracker.parent().metrics(finding.numbers)
        for written in (path, config.folder / "ladder.md", figures / "ladder.png"):
            tracker.parent().artifact(written)
    _say(result)
    return result


def rungs(study: Study, environment: str = "the environment") -> dict[str, Agent]:
    """Name -> the agent as trained, and with one part of one level replaced by the truth.

    Raises:
        ConfigError: the environment cannot tell the truth.
    """
    if study.oracle is None:
        raise ConfigError(
            f"environment is {environment}, which has no `oracle` for these data; expected one that knows shortest paths and its dynamics, "
            "see hiwm/envs/oracle.py"
        )
    truth, strategies = Truth(study), study.agent.planner.strategies
    agents: dict[str, Agent] = {HIERARCHICAL: study.agent}
    for k in reversed(range(study.num_levels)):
        for part, replacement in PARTS.items():
            # level 0 hands nothing down; without a search nothing is compared or predicted
            if (k > 0) if replacement is TrueSubgoals else strategies[k].searches:
                agent = OracleAgent(study.agent, truth)
                changed = list(agent.planner.strategies)
                changed[k] = replacement(changed[k], truth)
                agent.planner.strategies = changed
                agents[f"{part}, level {k}"] = agent
    return agents


def compare(numbers: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per agent: success with its 95 % Wilson interval, and its gain over the agent as trained, in the same episodes.

    The interval of the gain is of a bootstrap over episodes within each task; starts and goals are the same for all agents. A gain is
    clear if it is beyond chance for the number of replacements that are tried (Bonferroni).
    """
    solved = {name: outcomes_of([of]) for name, of in numbers.items()}
    rows = []
    for name, of in numbers.items():
        gain = solved[name] - solved[HIERARCHICAL]
        low, high = bootstrap_interval(gain)
        rows.append({
            "name": AS_TRAINED if name == HIERARCHICAL else name,
            "success": of["success"],
            "low": of["interval"][0],
            "high": of["interval"][1],
            "gain": float(gain.mean()),
            "gain_low": low,
            "gain_high": high,
            "clear": bootstrap_interval(gain, confidence=1 - 0.05 / max(1, len(numbers) - 1))[0] > 0,
            "episodes": of["episodes"],
            "steps": of["steps"]["mean"] if of["steps"] else None,
        })  # fmt: skip
    return rows


def described(result: Mapping[str, Any]) -> Finding:
    """The ladder as an answer: which part limits success."""
    trained, *others = result["rungs"]
    gains = [row for row in others if row["clear"]]
    success = f"As trained, {100 * trained['success']:.0f} % of {trained['episodes']} episodes succeed."
    if gains:
        best = max(gains, key=lambda row: row["gain"])
        part, level = best["name"].removeprefix("true ").split(", ")
        sentence = (
            f"{success} The {part} of {level} {'loses' if part == 'distance' else 'lose'} most: with {best['name'].split(',')[0]} "
            f"there, {100 * best['success']:.0f} % succeed, {_gain(best)} percentage points."
        )
    else:
        most = max(others, key=lambda row: row["gain"], default=None)
        near = "" if most is None else f"; the largest gain is that of {most['name']}, {_gain(most)}"
        sentence = f"{success} No single replacement by the truth gains more than chance{near}."
    metrics = {f"ladder/{row['name'].replace(', ', ' of ')}": row["success"] for row in result["rungs"]}
    caption = (
        f"Success with one part of one level replaced by the truth (planner.graph={result['graph']}), with 95 % Wilson intervals; on the right "
        "the gain over the hierarchy as trained in the same episodes, with its 95 % bootstrap interval. True subgoals: the level hands "
        "down the state one of its steps ahead on the shortest path. True distance: its search minimises the true number of steps to its "
        "target. True dynamics: its predictions are corrected to what is possible. Each part alone cannot help a search that "
        "both parts mislead, so both are also replaced together. Written by hiwm ladder."
    )
    return Finding("Which part limits success", sentence, metrics, _draw(result), caption)


def read_ladder(config: Config, agent: Agent) -> Finding | None:
    """What `hiwm ladder` found for this hierarchy; None if it has not run."""
    path = Path(config.folder / LADDER)
    if not path.exists():
        return None
    result = read_json(path)
    return described(result) if result.get("hierarchy") == agent.hierarchy.specs[-1].fingerprint else None


def in_words(result: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    table = pd.DataFrame([
        {
            "replaced": row["name"],
            "success (%)": f"{100 * row['success']:.0f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]",
            "gain (points)": "" if row["name"] == AS_TRAINED else _gain(row),
            "episodes": row["episodes"],
            "steps": "-" if row["steps"] is None else f"{row['steps']:.0f}",
        }
        for row in result["rungs"]
    ])  # fmt: skip
    return markdown(table)


def _gain(row: Mapping[str, Any]) -> str:
    return f"{100 * row['gain']:+.0f} [{100 * row['gain_low']:+.0f}, {100 * row['gain_high']:+.0f}]"


def _draw(result: Mapping[str, Any]) -> Figure:
    rows = result["rungs"]
    figure = Figure(figsize=(8.5, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes, places = figure.subplots(), np.arange(len(rows))[::-1]
    for y, row in zip(places, rows, strict=True):
        trained = row["name"] == AS_TRAINED
        hue = "0.3" if trained else color(int(row["name"].rpartition(" ")[2]))
        axes.hlines(y, 100 * row["low"], 100 * row["high"], color=hue, lw=2.5)
        axes.plot(100 * row["success"], y, "o", color=hue, ms=7)
        text = "" if trained else _gain(row)
        axes.annotate(text, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.axvline(100 * rows[0]["success"], color="0.6", lw=0.9, ls="--", zorder=0)
    axes.set_yticks(places, [row["name"] for row in rows])
    axes.set(
        xlim=(-2, 102),
        ylim=(-0.7, len(rows) - 0.3),
        xlabel="success (%), with 95 % interval; right: gain (percentage points)",
    )
    plain(axes)
    return figure


def _say(result: Mapping[str, Any]) -> None:
    print(f"\n{in_words(result)}\n")
    say(described(result).sentence)
