"""`python -m hiwm.analysis.tables runs/*`: evaluations of many runs, and the health of their levels, as CSV and Markdown."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from hiwm.analysis import uncertainty
from hiwm.analysis.report import KEPT
from hiwm.evaluation.statistics import wilson_interval
from hiwm.heads.calibration import Calibration
from hiwm.training.checkpoint import METRICS

HEALTH: tuple[str, ...] = ("effective_rank", "std", "within_episode", "copy_last", "readout_r2")
Row = dict[str, str | int | float]


def rows_of(folders: Iterable[Path], name: str) -> list[Row]:
    """A row for every agent of every `<name>.json` found in the folders."""
    rows: list[Row] = []
    for folder in sorted(folders):
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        for agent, numbers in result["agents"].items():
            rows.append(
                {
                    "experiment": result["experiment"],
                    "seed": result["seed"],
                    "agent": agent,
                    "won": round(numbers["success"] * numbers["episodes"]),
                    "episodes": numbers["episodes"],
                    "low": round(numbers["interval"][0], 4),
                    "high": round(numbers["interval"][1], 4),
                    "steps": round(numbers["steps"]["mean"], 1) if numbers["steps"] else "",
                    "plan_ms": round(numbers["plan_ms"]["mean"], 3),
                    "predictor_calls": round(numbers["predictor_calls"], 1),
                    "other_calls": round(numbers["other_calls"], 1),
                    "per_task": " ".join(f"{rate['success']:.2f}" for rate in numbers["per_task"].values()),
                    "machine": result["machine"],
                    "commit": result["commit"],
                }
            )
            if violations := numbers.get("violations"):
                low, high = violations["interval"]
                rows[-1] |= {"entered": round(violations["share"] * violations["episodes"]), "entered_low": round(low, 4),
                             "entered_high": round(high, 4), "steps_inside": round(violations["steps"], 2)}  # fmt: skip
    return rows


def health_of(folders: Iterable[Path]) -> list[Row]:
    """A row for every level of every run: its health at the last validation (`training.monitor`), and what it keeps (`hiwm report`)."""
    rows: list[Row] = []
    for folder in sorted(folders):
        described = folder / "hierarchy" / "hierarchy.yaml"
        if not described.exists():
            continue
        told = folder / KEPT
        kept = json.loads(told.read_text()) if told.exists() else {}
        for k, level in enumerate(yaml.safe_load(described.read_text())["levels"]):
            path = folder / "levels" / level["fingerprint"] / METRICS
            if not path.exists():
                continue
            metrics = json.loads(path.read_text())
            row: Row = {"run": folder.name, "level": k} | {key: round(metrics[key], 4) for key in HEALTH}
            for column, scores in kept.items():
                row[f"r2_{column}"] = round(scores[k], 3)
            rows.append(row)
    return rows


def calibration_of(folders: Iterable[Path]) -> list[Row]:
    """A row for every step ahead of every level with an ensemble."""
    return [
        {"run": folder.name, "level": int(file.stem.removeprefix("calibration"))} | row
        for folder in sorted(folders)
        for file in sorted((folder / "hierarchy").glob("calibration*.safetensors"))
        for row in uncertainty.rows_of(Calibration.load(file))
    ]


def markdown_of_rows(rows: Sequence[Row]) -> str:
    """Markdown: the rows as they are."""
    names = _names(rows)
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows)])


def _names(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows for name in row))


def markdown(rows: Sequence[Row]) -> str:
    """Markdown: a line an experiment, a column an agent: successes of each seed, and the worst seed's interval."""
    agents = list(dict.fromkeys(str(row["agent"]) for row in rows))
    lines = [f"| experiment | seeds | {' | '.join(agents)} |", "|---" * (len(agents) + 2) + "|"]
    for experiment in dict.fromkeys(row["experiment"] for row in rows):
        mine = [row for row in rows if row["experiment"] == experiment]
        cells = []
        for agent in agents:
            counts = [(int(row["won"]), int(row["episodes"])) for row in mine if row["agent"] == agent]
            # starts and goals are the same for every seed, so seeds are not pooled: the interval is the worst seed's
            low, high = min((wilson_interval(*count) for count in counts), default=(0, 0))
            shown = ", ".join(f"{won}/{of}" for won, of in counts)
            cells.append(f"{shown} [{100 * low:.1f}, {100 * high:.1f}]" if counts else "-")
        seeds = sorted({int(row["seed"]) for row in mine})
        lines.append(f"| {experiment} | {', '.join(map(str, seeds))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def markdown_by_agent(rows: Sequence[Row]) -> str:
    """Markdown: a line an agent, a column an experiment: successes of each seed; steps and calls over all of them."""
    experiments = list(dict.fromkeys(str(row["experiment"]) for row in rows))
    lines = [
        f"| agent | {' | '.join(experiments)} | mean steps | predictor calls | other calls |",
        "|---" * (len(experiments) + 4) + "|",
    ]
    for agent in dict.fromkeys(str(row["agent"]) for row in rows):
        mine = [row for row in rows if row["agent"] == agent]
        cells = [
            ", ".join(f"{row['won']}/{row['episodes']}" for row in mine if row["experiment"] == experiment)
            for experiment in experiments
        ]
        solved = [(float(row["steps"]), int(row["won"])) for row in mine if row["steps"] != ""]
        won = sum(count for _, count in solved)
        steps = f"{sum(mean * count for mean, count in solved) / won:.0f}" if won else "-"
        calls = [
            f"{sum(float(row[key]) for row in mine) / len(mine):.0f}" for key in ("predictor_calls", "other_calls")
        ]
        lines.append(f"| {agent} | {' | '.join([*cells, steps, *calls])} |")
    return "\n".join(lines)


def main(folders: Sequence[str]) -> None:
    """Write `levels.csv` and a CSV for each evaluation into the current folder, and print them as Markdown."""
    paths = [Path(folder) for folder in folders]
    names = [
        ("evaluation", rows_of(paths, "evaluation"), markdown),
        ("ablation", rows_of(paths, "ablation"), markdown_by_agent),
        ("depth", rows_of(paths, "depth"), markdown_by_agent),
        ("manipulation", rows_of(paths, "manipulation"), markdown_by_agent),
        ("closed_door", rows_of(paths, "closed_door"), markdown_by_agent),
        ("keep_out", rows_of(paths, "keep_out"), markdown_by_agent),
        ("levels", health_of(paths), markdown_of_rows),
        ("calibration", calibration_of(paths), markdown_of_rows),
    ]
    for name, rows, table in names:
        if not rows:
            continue
        with open(f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, _names(rows), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"\n{name}.csv\n\n{table(rows)}")


if __name__ == "__main__":
    main(sys.argv[1:])
