"""`python -m hiwm.analysis.tables runs/*`: evaluations and level diagnostics of many runs, as CSV and Markdown."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiwm.analysis.questions import DIAGNOSTICS
from hiwm.evaluation.results import read_results
from hiwm.evaluation.statistics import interval_over_tasks
from hiwm.files import read_json, saved_folder
from hiwm.hierarchy import DESCRIPTION, load_specs
from hiwm.training.checkpoint import METRICS, load_metrics
from hiwm.training.diagnostics.runner import LOSS
from hiwm.training.homes import levels_of

REPLACED = re.compile(r"-[0-9a-f]{16}$")  # a result with this suffix was replaced by one with other settings


def evaluations(folders: Iterable[Path], name: str) -> pd.DataFrame:
    """A row for every agent of every `<name>.json` in the folders."""
    rows = []
    for path in (folder / f"{name}.json" for folder in sorted(folders)):
        if path.exists():
            result = read_results(path)
            rows += [_evaluation_row(result, agent, numbers) for agent, numbers in result["agents"].items()]
    return pd.DataFrame(rows).convert_dtypes()


def _evaluation_row(result: dict[str, Any], agent: str, numbers: dict[str, Any]) -> dict[str, Any]:
    low, high = numbers["interval"]
    row = {
        "experiment": result["experiment"],
        "seed": result["seed"],
        "agent": agent,
        "won": round(numbers["success"] * numbers["episodes"]),
        "episodes": numbers["episodes"],
        "low": round(low, 4),
        "high": round(high, 4),
        "steps": round(numbers["steps"]["mean"], 1) if numbers["steps"] else None,
        "plan_ms": round(numbers["plan_ms"]["mean"], 3),
        "predictor_calls": round(numbers["predictor_calls"], 1),
        "other_calls": round(numbers["other_calls"], 1),
        "per_task": " ".join(f"{rate['success']:.2f}" for rate in numbers["per_task"].values()),
        "machine": result["machine"],
        "commit": result["commit"],
    }
    if violations := numbers.get("violations"):
        low, high = violations["interval"]
        row |= {
            "entered": round(violations["share"] * violations["episodes"]),
            "entered_low": round(low, 4),
            "entered_high": round(high, 4),
            "steps_inside": round(violations["steps"], 2),
        }
    return row


def levels(folders: Iterable[Path]) -> pd.DataFrame:
    """A row for every level of every run: diagnostics of its last validation, and R2 of the state columns (after `hiwm report`)."""
    rows = []
    for folder in sorted(folders):
        saved = saved_folder(folder / "hierarchy")
        if not (saved / DESCRIPTION).exists():
            continue
        asked = read_json(folder / DIAGNOSTICS) if (folder / DIAGNOSTICS).exists() else {}
        answers = {name: value for answer in asked.values() for name, value in answer["metrics"].items()}
        for k, level in enumerate(load_specs(saved)):
            home = levels_of(folder) / level.fingerprint
            if (home / METRICS).exists():
                metrics = load_metrics(home)
                measured = {name: round(x, 4) for name, x in metrics.items() if not name.startswith(LOSS)}
                kept = {
                    name.removeprefix(f"level{k}/kept_"): x for name, x in answers.items() if f"level{k}/kept_" in name
                }
                kept = {name.removesuffix("_nonlinear"): x for name, x in kept.items() if name.endswith("_nonlinear")}
                scores = {f"r2_{column}": round(x, 3) for column, x in kept.items()}
                rows.append({"run": folder.name, "level": k, **measured, **scores})
    return pd.DataFrame(rows).convert_dtypes()


def by_experiment(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per experiment, one column per agent: mean success in percent, its interval over seeds and tasks, successes of every seed."""

    def cell(group: pd.DataFrame) -> str:
        of_seeds = [[float(rate) for rate in rates.split()] for rates in group["per_task"]]
        if len({len(rates) for rates in of_seeds}) > 1:  # other tasks with another seed
            return ", ".join(_solved(group))
        rates = np.array(of_seeds)
        low, high = interval_over_tasks(rates, int(group["episodes"].min()) // rates.shape[1])
        return f"{100 * rates.mean():.1f} [{100 * low:.0f}, {100 * high:.0f}]: {', '.join(_solved(group))}"

    experiments = rows.groupby("experiment", sort=False)
    seeds = experiments["seed"].agg(lambda seed: ", ".join(map(str, sorted(seed.unique()))))
    table = pd.DataFrame({"experiment": seeds.index, "seeds": seeds.to_list()})
    for agent in rows["agent"].unique():
        of_agent = rows.loc[rows["agent"] == agent].groupby("experiment", sort=False)
        table[agent] = table["experiment"].map({name: cell(group) for name, group in of_agent}).fillna("-")
    return table


def by_agent(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per agent, one column per experiment: successes of every seed; mean steps and calls over all experiments."""
    table = []
    for agent, mine in rows.groupby("agent", sort=False):
        cells: dict[str, Any] = {"agent": agent}
        for experiment in rows["experiment"].unique():
            cells[experiment] = ", ".join(_solved(mine.loc[mine["experiment"] == experiment]))
        solved = mine.dropna(subset="steps")  # steps are means over the episodes that were solved
        won = solved["won"].sum()
        cells["mean steps"] = f"{(solved['steps'] * solved['won']).sum() / won:.0f}" if won else "-"
        cells["predictor calls"] = f"{mine['predictor_calls'].mean():.0f}"
        cells["other calls"] = f"{mine['other_calls'].mean():.0f}"
        table.append(cells)
    return pd.DataFrame(table)


def _solved(rows: pd.DataFrame) -> list[str]:
    return [f"{won}/{episodes}" for won, episodes in zip(rows["won"], rows["episodes"], strict=True)]


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown; missing values are empty."""
    cells = table.astype(object).where(table.notna(), "")
    lines = [list(map(str, table.columns)), *([str(value) for value in row] for row in cells.to_numpy())]
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|---" * len(table.columns) + "|", *body])


def main(folders: Sequence[str]) -> None:
    """Write `levels.csv` and a CSV for each evaluation into the current folder, and print them as Markdown."""
    paths = [Path(folder) for folder in folders]
    for name in _evaluation_names(paths):
        rows = evaluations(paths, name)
        _write(name, rows, by_experiment(rows) if name == "evaluation" else by_agent(rows))
    if not (rows := levels(paths)).empty:
        _write("levels", rows, rows)


def _evaluation_names(folders: Iterable[Path]) -> list[str]:
    """Names of the evaluations in the folders, alphabetically."""
    files = [file for folder in folders for file in folder.glob("*.json") if not REPLACED.search(file.stem)]
    return sorted({file.stem for file in files if "agents" in read_json(file)})


def _write(name: str, rows: pd.DataFrame, shown: pd.DataFrame) -> None:
    rows.to_csv(f"{name}.csv", index=False)
    print(f"\n{name}.csv\n\n{markdown(shown)}")


if __name__ == "__main__":
    main(sys.argv[1:])
