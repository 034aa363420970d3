from __future__ import annotations

import csv
import json

import pandas as pd

from hiwm.analysis import tables


def test_tables_say_what_the_results_say(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = json.loads((tiny_run.folder / "evaluation.json").read_text())
    copies = []
    for seed in (0, 1):
        folder = tmp_path / f"tiny-seed{seed}"
        folder.mkdir()
        for name in ("evaluation", "ablation"):
            (folder / f"{name}.json").write_text(json.dumps({**result, "seed": seed, "commit": "abc1234"}))
        copies.append(str(folder))
    tables.main(copies)
    printed = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "evaluation.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(result["agents"])
    for row in rows:
        numbers = result["agents"][row["agent"]]
        assert int(row["won"]) == round(numbers["success"] * numbers["episodes"])
        assert row["commit"] == "abc1234"
        assert f"]: {row['won']}/{row['episodes']}, {row['won']}/{row['episodes']} |" in printed  # a line an experiment
        assert (
            f"| {row['agent']} | {row['won']}/{row['episodes']}, {row['won']}/{row['episodes']} |" in printed
        )  # an agent


def test_violations_have_columns(tiny_run, tmp_path):
    result = json.loads((tiny_run.folder / "evaluation.json").read_text())
    violations = {"share": 0.5, "interval": [0.1, 0.9], "episodes": 4, "steps": 1.5}
    agents = {name: numbers | {"violations": violations} for name, numbers in result["agents"].items()}
    (tmp_path / "keep_out.json").write_text(json.dumps({**result, "agents": agents}))
    row = tables.evaluations([tmp_path], "keep_out").iloc[0]
    assert [row[key] for key in ("entered", "entered_low", "entered_high", "steps_inside")] == [2, 0.1, 0.9, 1.5]


def test_mean_steps_are_over_successes():
    def row(seed, won, steps):
        return {"agent": "hierarchical", "experiment": "maze", "seed": seed, "won": won, "episodes": 4, "steps": steps,
                "predictor_calls": 200.0, "other_calls": 10.0 * seed}  # fmt: skip

    rows = [row(0, 3, 100.0), row(1, 1, 200.0), row(2, 0, None)]
    assert (
        tables.markdown(tables.by_agent(pd.DataFrame(rows))).splitlines()[-1]
        == "| hierarchical | 3/4, 1/4, 0/4 | 125 | 200 | 10 |"
    )


def test_diagnostics_of_every_level(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tables.main([str(tiny_run.folder)])
    rows = list(csv.DictReader((tmp_path / "levels.csv").read_text().splitlines()))
    assert [row["level"] for row in rows] == ["0", "1", "2"]
    for row in rows:
        assert row["run"] == tiny_run.folder.name
        assert float(row["state_probe_r2"]) > 0.5
    assert f"| {tiny_run.folder.name} | 2 | {rows[2]['effective_rank']} |" in capsys.readouterr().out


def test_seeds_with_other_tasks_have_no_interval():
    shown = {"experiment": "tiny", "agent": "flat", "won": 3, "episodes": 4}
    rows = pd.DataFrame([{**shown, "seed": 0, "per_task": "1.00 0.50"}, {**shown, "seed": 1, "per_task": "0.75"}])
    assert tables.by_experiment(rows)["flat"].tolist() == ["3/4, 3/4"]
    assert tables.by_experiment(rows[:1])["flat"].tolist()[0].endswith("]: 3/4")
