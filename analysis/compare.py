"""The command `hiwm compare`: success on the same episodes, costs, diagnostics and similarity of latents of several runs, as one page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Template
from matplotlib.figure import Figure

from hiwm.agent import CONFIG, HIERARCHY, Agent, load_agent
from hiwm.analysis.figures import HEALTH_RANGE, curve_of
from hiwm.analysis.history import load_history
from hiwm.analysis.page import assets, inline
from hiwm.analysis.similarity import draw_cka, linear_cka
from hiwm.console import say
from hiwm.data.store import open_dataset
from hiwm.evaluation.config import HIERARCHICAL
from hiwm.evaluation.results import read_results
from hiwm.evaluation.statistics import bootstrap_interval, outcomes_of
from hiwm.files import read_yaml, write_text
from hiwm.training.checkpoint import load_metrics
from hiwm.training.diagnostics.runner import SHIPPED
from hiwm.training.homes import levels_of

UNPAIRED = (
    "name",
    "num_envs",
    "baselines",
    "baseline_episodes",
    "baseline_budget",
    "edge_memory",
)  # no matter to the hierarchy
STATES = 2000  # that the latents of all levels are compared on


@dataclass(frozen=True)
class FinishedRun:
    """A trained run.

    Args:
        label: short name, unique among the runs compared.
        folder: `<root>/<experiment>` or `<root>/<experiment>/<run>`.
        config: that it was trained with.
        agent: its hierarchy.
        results: of its evaluation; None if it was not evaluated.
    """

    label: str
    folder: Path
    config: dict[str, Any]
    agent: Agent
    results: dict[str, Any] | None


def compare(folders: Sequence[str], allow: Sequence[str] = ()) -> Path:
    """Write the page and its tables into `<root of the first run>/comparisons/<labels>/`.

    Args:
        folders: of two or more runs.
        allow: modules trusted for the parts of the hierarchies besides hiwm's own.

    Raises:
        ValueError: a folder holds no trained run.
    """
    if len(folders) < 2:
        given = " ".join(map(str, folders)) or "none"
        raise ValueError(f"the runs to compare are {given}; expected two or more folders, such as runs/a runs/b")
    runs = open_runs([Path(folder) for folder in folders], allow)
    home = (
        levels_of(runs[0].folder).parent / "comparisons" / "+".join(run.label.replace("/", ".") for run in runs)[:150]
    )
    home.mkdir(parents=True, exist_ok=True)
    success, health = compare_success(runs), compare_levels(runs)
    success.to_csv(home / "success.csv", index=False)
    health.to_csv(home / "levels.csv", index=False)
    names, similarity = compare_latents(runs)
    figures = {"curves": draw_curves(runs), "similarity": draw_cka({"all levels of all runs": similarity}, names)}
    page = Template(files("hiwm.analysis").joinpath("compare.html").read_text(), autoescape=True).render(
        runs=runs, success=success.replace({np.nan: None}).to_dict("records"), levels=health.replace({np.nan: None}).to_dict("records"),
        diagnostics=list(SHIPPED), paired=_are_paired(runs), headline=in_words(success),
        figures={name: _inline(figure) for name, figure in figures.items()}, **assets(),
    )  # fmt: skip
    path = home / "index.html"
    write_text(path, page)
    say(f"comparison: {path}")
    return path


def open_runs(folders: Sequence[Path], allow: Sequence[str]) -> list[FinishedRun]:
    """The runs, labelled by the part of their folders in which they differ."""
    parts = [folder.resolve().parts for folder in folders]
    shared = next(
        (i for i, names in enumerate(zip(*parts, strict=False)) if len(set(names)) > 1), min(map(len, parts)) - 1
    )
    return [_open(folder, "/".join(names[shared:]), allow) for folder, names in zip(folders, parts, strict=True)]


def _open(folder: Path, label: str, allow: Sequence[str]) -> FinishedRun:
    if not (folder / CONFIG).exists():
        raise ValueError(f"{folder} has no {CONFIG}; expected the folder of a trained run, such as runs/<experiment>")
    config = read_yaml(folder / CONFIG)
    results = folder / f"{config['evaluation']['name']}.json"
    agent = load_agent(folder / HIERARCHY, allow=allow)
    return FinishedRun(label, folder, config, agent, read_results(results) if results.exists() else None)


def _are_paired(runs: Sequence[FinishedRun]) -> bool:
    """Whether all runs were evaluated on the same starts and goals."""
    asked = [
        (
            run.config["environment"],
            {key: value for key, value in run.results["protocol"].items() if key not in UNPAIRED},
            outcomes_of([run.results["agents"][HIERARCHICAL]]).shape,
        )
        if run.results
        else None
        for run in runs
    ]
    return asked[0] is not None and all(each == asked[0] for each in asked)


def compare_success(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """A row for every evaluated run: success of the hierarchy and its difference to the first run, in percent, with 95 % intervals."""
    paired, rows, reference = _are_paired(runs), [], None
    for run in runs:
        if run.results is None:
            continue
        numbers = run.results["agents"][HIERARCHICAL]
        solved = outcomes_of([numbers])
        reference = solved if reference is None else reference
        low, high = bootstrap_interval(solved, lowest=0.0)
        row = {"run": run.label, "success": 100 * solved.mean(), "low": 100 * low, "high": 100 * high}
        if paired:
            less, more = bootstrap_interval(solved - reference)
            row |= {
                "difference": 100 * (solved - reference).mean(),
                "difference_low": 100 * less,
                "difference_high": 100 * more,
            }
        steps = numbers["steps"]["mean"] if numbers["steps"] else None
        row |= {"episodes": numbers["episodes"], "steps": steps, "plan_ms": numbers["plan_ms"]["mean"]}
        rows.append(row | {name: numbers[name] for name in ("predictor_calls", "other_calls")})
    return pd.DataFrame(rows)


def in_words(success: pd.DataFrame) -> str:
    """How the other runs compare with the first one."""
    if len(success) < 2:
        return "Fewer than two of the runs are evaluated, so their success is not compared. Run `hiwm evaluate` with their configurations."
    if "difference" not in success:
        return "The runs were not evaluated on the same starts and goals, so their success is not compared."
    said = []
    for _, row in success.iloc[1:].iterrows():
        if row["difference"] == 0:
            said.append(f"{row['run']} succeeds as often as {success['run'].iloc[0]}")
            continue
        beyond = row["difference_low"] > 0 or row["difference_high"] < 0
        more = "more" if row["difference"] > 0 else "less"
        said.append(
            f"{row['run']} succeeds {abs(row['difference']):.0f} percentage points {more} often than {success['run'].iloc[0]} "
            f"(95 % interval {row['difference_low']:+.0f} to {row['difference_high']:+.0f})"
            + ("" if beyond else ", which chance can explain")
        )
    return "; ".join(said) + "."


def compare_levels(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """A row for every run and level: its size, its fingerprint and its diagnostics on held-out data."""
    rows = []
    for run in runs:
        hierarchy = run.agent.hierarchy
        for k, (level, spec) in enumerate(zip(hierarchy.levels, hierarchy.specs, strict=True)):
            metrics = load_metrics(levels_of(run.folder) / spec.fingerprint)
            row = {"run": run.label, "level": k, "period": hierarchy.periods[k], "latent": level.encoder.dim}
            row |= {"fingerprint": spec.fingerprint}
            rows.append(row | {each.name: metrics.get(each.name) for each in SHIPPED})
    return pd.DataFrame(rows)


def compare_latents(runs: Sequence[FinishedRun]) -> tuple[list[str], np.ndarray]:
    """Names of the levels of all runs, and their similarity (N, N): linear CKA on the same states of the first run's dataset.

    NaN where a run has other inputs than the first one.
    """
    dataset = open_dataset(runs[0].config["dataset"]["path"])
    rows = np.sort(np.random.default_rng(0).choice(dataset.num_steps, min(STATES, dataset.num_steps), replace=False))
    names, latents = [], []
    for run in runs:
        same = run.agent.inputs == runs[0].agent.inputs
        columns = {name: dataset.column(name) for name in run.agent.inputs} if same else {}
        encoded = run.agent.hierarchy.encode_many(columns, rows) if same else [None] * len(run.agent.hierarchy)
        names += [f"{run.label}, level {k}" for k in range(len(encoded))]
        latents += encoded
    table = np.full((len(latents), len(latents)), np.nan)
    for i, a in enumerate(latents):
        for j, b in enumerate(latents[: i + 1]):
            if a is not None and b is not None:
                table[i, j] = table[j, i] = linear_cka(a.numpy(), b.numpy())
    return names, table


def draw_curves(runs: Sequence[FinishedRun]) -> Figure:
    """A row per level: prediction loss while training and on held-out data, one line per run."""
    levels = max(len(run.agent.hierarchy) for run in runs)
    figure = Figure(figsize=(10, 2.6 * levels), layout="constrained")
    grid = figure.subplots(levels, 2, squeeze=False)
    for k, (left, right) in enumerate(grid):
        for i, run in enumerate(runs):
            if k >= len(run.agent.hierarchy):
                continue
            history = load_history(levels_of(run.folder) / run.agent.hierarchy.specs[k].fingerprint)
            for axes, key in ((left, "loss/prediction"), (right, "validation/copy_last")):
                line = "-" if i % 2 == 0 else "--"  # identical levels would hide each other
                axes.plot(*curve_of(history, key), line, lw=2.4 - 0.5 * min(i, 3), color=f"C{i}", label=run.label)
        left.set(title=f"level {k}: prediction loss", yscale="log", xlabel="optimiser step")
        right.set(title=f"level {k}: open-loop error / error of no change", xlabel="optimiser step", ylim=HEALTH_RANGE)
    handles = grid[0][0].get_legend_handles_labels()  # every run has a level 0
    figure.legend(*handles, loc="outside lower center", ncols=min(4, len(runs)), frameon=False)
    return figure


def _inline(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return inline(file.getvalue())
