"""`hiwm <command> --multirun`: one run for each combination."""

from __future__ import annotations

import json

import pytest
import tiny
import yaml

from hiwm.cli import main
from hiwm.config import ConfigError, load_config
from hiwm.files import write_json
from hiwm.sweep import combinations, run_name

SHORT = ["training.steps=3", "tracking=none", "device=cpu"]


@pytest.fixture
def overrides(tiny_run, tmp_path):
    return [*tiny.overrides(tmp_path, *SHORT), f"dataset.path={tiny_run.config.dataset.path}"]


def test_combinations_are_those_of_the_basic_sweeper():
    found = combinations(["seed=0,1", "levels.level1.stride=range(4,6)", "+a='x,y'", "hydra/launcher=joblib"])
    assert list(found) == [
        [f"seed={seed}", f"levels.level1.stride={stride}", "+a='x,y'"] for seed in (0, 1) for stride in (4, 5)
    ]


def test_a_run_is_named_by_its_swept_values():
    assert run_name({"seed": "1", "levels.level1.stride": "4"}) == "levels.level1.stride=4,seed1"
    unclean = [run_name({"environment.maze": maze}) for maze in ("a/b [c]", "a/b (c)", "a_b_c_")]
    assert [name[:22] for name in unclean] == ["environment.maze=a_b_c"] * 3
    assert unclean[2] == "environment.maze=a_b_c_"
    assert len({*unclean}) == 3
    seeds = [run_name({"environment.maze": "a/b", "seed": seed}) for seed in "01"]
    assert (
        seeds[0].removesuffix("seed0") == seeds[1].removesuffix("seed1") == f"{run_name({'environment.maze': 'a/b'})},"
    )
    long = [run_name({"dataset.path": f"{'x' * 200}{end}"}) for end in ("0", "1", "<", ">")]
    assert len({*long}) == 4
    assert long[0].endswith("x-25cc63f3acd26501")
    assert all(len(name) < 130 for name in long)


@pytest.mark.parametrize(
    ("swept", "expected"),
    [
        (["seed=0,1"], [None, None]),  # the folders of single runs: that of the experiment, and seed1
        (["run=mine", "++seed=0,1"], ["mine,seed0", "mine,seed1"]),
        (["run=null", "seed=0,1"], [None, None]),
        (["run=mine", "planner.budget=100,200"], ["mine,planner.budget=100", "mine,planner.budget=200"]),
    ],
)
def test_each_run_of_a_sweep_has_a_folder(swept, expected, overrides, monkeypatch):
    found = []

    def run(command, overrides):
        found.append(load_config(overrides).run)
        return 0

    monkeypatch.setattr("hiwm.cli._run", run)
    assert main(["train", "--multirun", *overrides, *swept]) == 0
    assert found == expected


def test_a_run_that_fails_does_not_end_the_sweep(overrides, tmp_path, capfd):
    swept = ["levels.level2.stride=400,2", "seed=0,1"]
    assert main(["train", "--multirun", *overrides, *swept]) == 2
    printed = capfd.readouterr()
    assert "2 of 4 runs failed: levels.level2.stride=400,seed0, levels.level2.stride=400,seed1" in printed.out
    assert printed.err.count("hiwm train: levels.level2: a window of 2 steps") == 2
    for seed in (0, 1):
        home = tmp_path / "tiny" / f"levels.level2.stride=2,seed{seed}"
        assert (home / "hierarchy" / "hierarchy.yaml").exists()
        assert yaml.safe_load((home / "config.yaml").read_text())["seed"] == seed
    statuses = [json.loads(path.read_text())["status"] for path in tmp_path.glob("multirun/*/*/status.json")]
    assert sorted(statuses) == [0, 0, 2, 2]


def test_values_that_differ_in_signs_alone_have_folders_of_their_own(overrides, monkeypatch):
    found = []
    monkeypatch.setattr("hiwm.cli._run", lambda _, given: found.append(load_config(given).folder) or 0)
    assert main(["train", "-m", *overrides, "tracking=none", "+environment.x='<','>'"]) == 0
    assert len({*found}) == 2


@pytest.mark.parametrize("hydra", ["hydra.sweep.dir={elsewhere}", "hydra.sweep.subdir='job_${{hydra.job.num}}'"])
def test_failures_are_reported_wherever_hydra_writes(overrides, tmp_path, hydra, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hiwm.cli._run", lambda *_: 2)
    chosen = hydra.format(elsewhere=tmp_path / "elsewhere")
    assert main(["train", "-m", *overrides, "seed=0,1", chosen]) == 2
    assert "2 of 2 runs failed: seed0, seed1" in capfd.readouterr().out


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_runs_in_other_processes(overrides, tmp_path, launcher):
    assert main(["train", "-m", *overrides, "seed=0,1", f"hydra/launcher={launcher}"]) == 0
    for seed in (0, 1):  # where a single command puts them
        assert (load_config([*overrides, f"seed={seed}"]).folder / "hierarchy" / "hierarchy.yaml").exists()
    assert [path.parent.name for path in (tmp_path / "tiny").glob("*/hierarchy")] == ["seed1"]


@pytest.mark.filterwarnings("ignore")  # optuna 2 and its sweeper use what is deprecated now
def test_optuna_maximises_the_success(overrides, tmp_path, monkeypatch):
    tried = []

    def evaluate(command, overrides):
        config = load_config(overrides)
        tried.append(config.planner.budget)
        config.folder.mkdir(parents=True, exist_ok=True)
        write_json(
            config.folder / "evaluation.json", {"agents": {"hierarchical": {"success": 1 / config.planner.budget}}}
        )
        return 0

    monkeypatch.setattr("hiwm.cli._run", evaluate)
    sampler = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.direction=maximize",
    ]
    assert main(["evaluate", "-m", *overrides, *sampler, "planner.budget=choice(100,200,300)"]) == 0
    found = yaml.safe_load(next(tmp_path.glob("multirun/*/optimization_results.yaml")).read_text())
    assert len(tried) == 3
    assert found["best_value"] == pytest.approx(1 / min(tried))


def test_a_mistake_is_refused_before_the_first_run(overrides, tmp_path, capfd):
    assert main(["train", "-m", *overrides, "seed=0,1", "trainng.steps=1"]) == 2
    assert "unknown key trainng" in capfd.readouterr().err
    assert main(["train", "-m", *overrides, "seed=0,minus"]) == 2
    assert "seed is 'minus'" in capfd.readouterr().err
    assert not (tmp_path / "tiny").exists()


def test_a_stopped_run_ends_the_sweep(overrides, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("hiwm.cli._run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["train", "-m", *overrides, "seed=0,1,2"]) == 130
    assert len([*tmp_path.glob("multirun/*/*/status.json")]) == 1


def test_a_run_needs_a_folder_of_its_own():
    assert load_config(["run=mine", "seed=2"]).folder == load_config([]).folder / "mine"
    assert load_config(["seed=2"]).folder == load_config([]).folder / "seed2"
    for name in ("hierarchy", "a/b", ".."):
        with pytest.raises(ConfigError, match="run is"):
            load_config([f"run={name}"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hiwm tr", ["train"]),
        ("hiwm train experiment=po", ["experiment=pointmaze", "experiment=pointmaze-metric"]),
        ("hiwm train seed=1 training.st", ["training.steps="]),
    ],
)
def test_tab_completion(line, expected, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == expected


def test_the_composed_config_is_shown(capsys):
    assert main(["train", "--cfg", "job", "experiment=fourroom", "seed=3"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == load_config(["experiment=fourroom", "seed=3"]).as_dict()
