from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import h5py
import pytest
import tiny
import yaml

from hiwm.agent import load_agent
from hiwm.cli import main
from hiwm.config import load_config
from hiwm.experiment.evaluation import evaluation_identity
from hiwm.planning.costs import Cost
from hiwm.usage import COMMANDS, OTHERS


def python(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


class Effort(Cost):
    def __init__(self, weight=1.0, *, level):
        self.weight = weight

    def __call__(self, rollout):
        return self.weight * rollout.actions.square().sum(-1)


def refused(capsys, *arguments):
    """Assert exit status 2 and return the single line on stderr."""
    capsys.readouterr()
    status = main(list(arguments))
    answer = capsys.readouterr().err
    assert status == 2, answer
    assert "Traceback" not in answer
    (line,) = answer.splitlines()
    assert line.startswith("hiwm")
    return line


@pytest.fixture
def spoiled(tiny_run, tmp_path):
    """A copy of the tiny experiment that a test may change."""
    shutil.copytree(tiny_run.root, tmp_path / "root")
    return tiny.overrides(tmp_path / "root", "tracking=none")


@pytest.fixture(autouse=True)
def restored_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # main() adds the current folder


def test_help_is_fast_and_imports_nothing(tmp_path):
    probe = (
        "import resource, sys\n"
        "from hiwm.cli import main\n"
        "assert main(['--help']) == 0\n"
        "heavy = {'torch', 'mlflow', 'numpy', 'hydra', 'gymnasium', 'h5py'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)\n"
    )
    done = python("-c", probe, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *usage, seconds = done.stdout.splitlines()
    assert float(seconds) < 1
    for command in COMMANDS:
        assert any(line.strip().startswith(command) for line in usage)
    began = time.process_time()
    done = python("-m", "hiwm", "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()) == (0, usage)
    assert time.process_time() - began < 1


def test_usage_is_shown_without_arguments(capsys):
    assert main([]) == 2
    assert "usage: hiwm <command>" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command, capsys):
    assert main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())  # lists are wrapped
    assert f"usage: hiwm {command}" in text
    assert ", demo, diverse-maze, " in text
    assert "pointmaze, pointmaze-metric, puzzle-3x3, puzzle-4x4, rooms-unseen, scene, " in text
    assert "environment.maze=medium, large, giant or teleport" in text
    assert "steps: 1500" in text
    assert "solver@planner.solver=augmented_lagrangian, categorical, cem, " in text


def test_a_reader_that_leaves_early_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "hiwm", "--help"], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_of_an_experiment_says_how_to_see_its_values(capsys):
    assert main(["train", "--help", "experiment=custom"]) == 0
    assert capsys.readouterr().out.endswith("hiwm train experiment=custom --cfg job\n")


@pytest.mark.parametrize("command", OTHERS)
def test_help_of_a_command_without_a_configuration(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: hiwm {command}" in text
    assert f"example:\n  hiwm {command} " in text
    assert "{" not in text
    assert max(map(len, text.splitlines())) <= 140
    if command == "ablate":
        assert "depth, inverse, macro_action, regularizer" in text


def test_unknown_command(capsys):
    assert refused(capsys, "walk").startswith("hiwm: the command is 'walk'; expected one of collect, train")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.stepz=3", "stepz"),
        ("+training.stepz=3", "training.stepz"),
        ("training.steps=many", "training.steps"),
        ("levels.level1.stride=0", "levels.level1.stride is 0; expected a whole number of at least 1"),
        ("levels.level2.stride=20", "levels.level2"),
        ("planner.graph=sideways", "planner.graph is 'sideways'; expected none, follow, search"),
        ("planner.level0.horizon=0", "planner.level0.horizon is 0; expected at least 1"),
        ("planner.budget=1", "planner.budget"),
        ("levels.level1.encoder._target_=os.system", "os.system"),
        ("environment._target_=nowhere.Room", "nowhere.Room"),
        ("graph.edge_steps=90", "graph.edge_steps"),
        ("action_bank.size=0", "action_bank.size is 0; expected at least 1"),
        ("inputs=[pixels]", "inputs contains 'pixels'; expected some of ['action', 'state']"),
        ("state=[place]", "state contains 'place'; expected some of "),
        ("goal.columns=[place]", "goal.columns contains 'place'; expected some of "),
    ],
)
def test_mistakes_are_named_in_one_line(spoiled, override, named, capsys):
    assert named in refused(capsys, "train", *spoiled, override)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("action_prior.levels=[7]", "action_prior.levels is [7]"),
        ("value.levels=[2]", "goal.columns is empty"),
        ("planner.level2.proposal.center=flow planner.graph=none", "action_prior.levels=[2]"),
        ("planner.level2.value_weight=5 planner.graph=none", "value.levels=[2]"),
        ("planner.level1.proposal.center=bank", "planner.level1.proposal.center is 'bank'; expected gaussian, inverse"),
        (
            "planner.level0.proposal.center=retrieval action_bank.length=5",
            "planner.level0.horizon is 6; expected at most 5",
        ),
        (
            "goal.columns=[place]",
            "goal.columns contains 'place'; expected some of ['action', 'state'], the columns of ",
        ),
        (
            "planner.level0.strategy={_target_:my.Strategy}",
            "planner.level0.strategy: _target_ 'my.Strategy' is not trusted",
        ),
        ("planner.solver.iterations=0", "planner.solver.iterations is 0"),
        (
            "+planner.level0.costs.value={_target_:planning_tools.None}",
            "planner.level0.costs.value has the name of a shipped cost",
        ),
        ("+planner.level0.costs.mine={weight:1}", "planner.level0.costs.mine has no _target_; expected the class of"),
        (
            "+planner.level0.costs.mine={_target_:test_cli.Effort,weigth:1} allow=[tiny,test_cli]",
            "planner.level0.costs.mine: test_cli.Effort: got an unexpected keyword argument 'weigth'",
        ),
        (
            "+planner.level0.costs.mine={_target_:hiwm.planning.solvers.cem.CEM}",
            "planner.level0.costs.mine makes a CEM; expected a subclass of hiwm.planning.costs.Cost",
        ),
        ("evaluation.goal={steps:1}", "evaluation.goal has no _target_; expected the class of the goal"),
        (
            "+evaluation.baselines.odd={graph:none,level1:{value_weight:2}}",
            "evaluation.baselines.odd: planner.level1.value_weight",
        ),
        ("environment._target_=nowhere.Room", "environment: _target_ 'nowhere.Room' is not trusted"),
        ("dataset.policy._target_=nowhere.Policy", "dataset.policy: _target_ 'nowhere.Policy' is not trusted"),
    ],
)
def test_mistakes_visible_in_the_config_are_refused_before_collection(tmp_path, override, named, capsys):
    assert named in refused(capsys, "run", *tiny.overrides(tmp_path, "tracking=none"), *override.split())
    assert not list(tmp_path.rglob("*.h5*"))


def test_a_bank_of_shorter_sequences_than_the_horizon_is_refused_before_training(spoiled, capsys):
    for proposal in ("center=retrieval", "candidates=[retrieval]"):
        line = refused(capsys, "train", *spoiled, f"planner.level0.proposal.{proposal}", "action_bank.length=5")
        assert (
            "planner.level0.horizon is 6; expected at most 5, the longest sequence of real actions of level 0, because "
            "planner.level0.proposal asks for retrieval"
        ) in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["planner.budget=1"], "planner.budget gives level 0 0 candidates in a round; expected at least 4"),
        ([f"planner.level{k}.replan=60" for k in range(3)], "planner.level0.replan is 60; expected at most its horizon, 6"),
        (["planner.level0.action_repeat=4"], "planner.level0.action_repeat is 4; expected a divisor of the horizon, 6"),
        (["levels.level1.inverse=null", "~levels.level1.loss_weights.inverse"], "planner.level0.proposal.center is inverse; expected a search without"),
        (["planner.solver.iterations=0"], "planner.solver.iterations is 0; expected at least 1"),
        (["planner.failure_penalty=1", "graph.transitions=stochastic"], "graph.transitions is 'stochastic'; expected deterministic"),
        (["levels.level1.stride=30", "levels.level2.stride=3"], "needs episodes of"),
        (["graph.num_nodes=1000000"], "graph.num_nodes is 1000000; expected at most the rows of the data"),
        (["evaluation.name=../x"], "evaluation.name is '../x'; expected the name of a file"),
        (["dataset.validation=0"], "dataset.validation is 0; expected more than 0"),
        (["device=cuda"], "device is 'cuda'; expected auto or cpu, because torch finds no CUDA device"),
    ],
)  # fmt: skip
def test_settings_that_the_planner_refuses_are_refused_before_training(spoiled, tmp_path, capsys, changes, message):
    assert message in refused(capsys, "train", *spoiled, "seed=7", *changes)
    assert not (tmp_path / "root" / "tiny-seed7").exists()


def test_real_actions_are_part_of_what_was_trained_and_evaluated(spoiled, capsys):
    assert "was trained with action_bank.size 2000 (the config says 7)" in refused(
        capsys, "evaluate", *spoiled, "action_bank.size=7"
    )
    config = load_config(spoiled)
    agent = load_agent(config.folder / "hierarchy")
    changes = {
        "action_bank": {"size": 7}, "graph": {"edge_steps": 7}, "goal": {"width": 7}, "text": {"dim": 7}, "action_prior": {"width": 7},
        "value": {"width": 7}, "planner": {"budget": 7}, "evaluation": {"max_steps": 7}, "seed": 7,
    }  # fmt: skip
    others = [config.changed({key: change}) for key, change in changes.items()]
    assert len({evaluation_identity(each, agent) for each in (config, *others)}) == 1 + len(changes)


def test_an_older_hierarchy_without_real_actions_is_evaluated(spoiled, capsys):
    folder = load_config(spoiled).folder
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    del saved["action_bank"]
    (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    for file in (folder / "hierarchy").glob("action_bank*.safetensors"):
        file.unlink()
    (folder / "hierarchy" / "config.yaml").unlink()
    described = yaml.safe_load((folder / "hierarchy" / "hierarchy.yaml").read_text())
    (folder / "hierarchy" / "hierarchy.yaml").write_text(yaml.safe_dump({"levels": described["levels"]}))
    assert main(["evaluate", *spoiled]) == 0
    line = refused(capsys, "evaluate", *spoiled, "planner.level0.proposal.center=retrieval")
    assert "no real actions of level 0 are saved" in line


def test_missing_dataset(tmp_path, capsys):
    line = refused(capsys, "train", *tiny.overrides(tmp_path, "tracking=none"))
    path = tmp_path / "datasets" / "tiny.h5"
    assert f"there is no dataset at {path} (dataset.path). `hiwm collect` makes one" in line


def test_a_mistake_in_the_environment_comes_before_the_missing_dataset(tmp_path, capsys):
    command = ["train", "experiment=custom", "name=x", f"root={tmp_path}", "tracking=none", "device=cpu"]
    line = refused(capsys, *command, "environment._target_=nowher.Room", "allow=[nowher]")
    assert "environment: _target_ 'nowher.Room' cannot be imported" in line
    line = refused(capsys, *command, "environment._target_=nowher.Room")
    assert "environment: _target_ 'nowher.Room' is not trusted" in line
    line = refused(capsys, *command, "environment._target_=tiny.TinyRom", "allow=[tiny]")
    assert "environment: _target_ 'tiny.TinyRom' cannot be imported" in line


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_the_keys_of_a_run_are_needed_in_every_command(command, spoiled, tmp_path, capsys):
    line = refused(capsys, command, "name=tiny", f"root={tmp_path / 'root'}", "tracking=none", "device=cpu")
    assert "hierarchy belongs to the environment {'_target_': 'tiny.TinyRoom'}, the config says" in line
    assert "Repeat the keys of the run in every command" in line


@pytest.mark.parametrize("command", ["collect", "evaluate"])
def test_more_tasks_than_the_environment_has(command, spoiled, tmp_path, capsys):
    more = ["evaluation.num_tasks=4", f"dataset.path={tmp_path / 'new.h5'}"]
    line = refused(capsys, command, *spoiled, *more)
    assert "evaluation.num_tasks is 4; expected at most 3, the num_tasks of tiny.TinyRoom" in line


def test_an_experiment_without_an_environment(tmp_path, capsys):
    for override in ("experiment=custom", "~experiment"):
        line = refused(capsys, "collect", override, f"root={tmp_path}", "tracking=none", "device=cpu")
        assert "environment has no _target_" in line


def test_missing_hierarchy(tmp_path, capsys):
    for command in ("evaluate", "report"):
        assert str(tmp_path / "tiny" / "hierarchy") in refused(
            capsys, command, *tiny.overrides(tmp_path, "tracking=none")
        )


def test_truncated_dataset(spoiled, tmp_path, capsys):
    path = tmp_path / "root" / "datasets" / "tiny.h5"
    whole = path.read_bytes()
    for size in (len(whole) // 2, 100, 0):
        path.write_bytes(whole[:size])
        assert str(path) in refused(capsys, "train", *spoiled)


def test_truncated_weights(spoiled, tmp_path, capsys):
    for path, command in (
        (next((tmp_path / "root" / "levels").glob("*/level.safetensors")), "train"),
        (tmp_path / "root" / "tiny" / "hierarchy" / "level1.safetensors", "evaluate"),
    ):
        path.write_bytes(path.read_bytes()[:2000])
        line = refused(capsys, command, *spoiled)
        assert f"{path} is damaged" in line
        assert "remove it" in line


def test_episodes_too_short_are_refused_before_they_are_collected(tmp_path, capsys):
    line = refused(capsys, "collect", *tiny.overrides(tmp_path, "tracking=none", "dataset.steps=9"))
    assert "the episodes to collect has 9" in line
    assert "dataset.steps" in line
    assert not list(tmp_path.rglob("*.h5*"))


def test_not_a_trajectory_file(spoiled, tmp_path, capsys):
    path = tmp_path / "root" / "datasets" / "tiny.h5"
    with h5py.File(path, "w") as file:
        file["state"] = [1.0]
    line = refused(capsys, "train", *spoiled)
    assert str(path) in line
    assert "ep_len" in line


def test_another_environment(spoiled, capsys):
    for command in ("train", "evaluate"):
        line = refused(capsys, command, *spoiled, "+environment.radius=0.3")
        assert "belongs to the environment {'_target_': 'tiny.TinyRoom'}" in line
        assert "'radius': 0.3" in line
    line = refused(capsys, "collect", *spoiled, "+environment.radius=0.3")
    assert "dataset.path" in line


def test_a_real_process_prints_one_line_too(tmp_path):
    done = python("-m", "hiwm", "train", *tiny.overrides(tmp_path, "tracking=none"), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("hiwm train: there is no dataset at ")


def test_the_same_command_again_reuses_everything(tiny_run, spoiled, tmp_path, capsys):
    root = tmp_path / "root"
    kept = ("*.h5", "level.safetensors", "metrics.json", "evaluation.json", "evaluation.npz", "history.jsonl")
    before = {
        path: path.stat().st_mtime_ns
        for pattern in kept
        for path in root.rglob(pattern)
        if "mlartifacts" not in path.parts and path.parent.name != "hierarchy"
    }
    assert len(before) == 4 + 3 + 3 + 1 + 1 + 3
    capsys.readouterr()
    assert main(["run", *spoiled]) == 0
    said = capsys.readouterr().out
    assert "steps, reused" in next(line for line in said.splitlines() if line.startswith("dataset"))
    for k in range(3):
        assert any(line.startswith(f"level {k}:") and "trained already, reused" in line for line in said.splitlines())
    assert f"evaluation {root / 'tiny' / 'evaluation.json'}: reused" in said
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_changed_planner_is_evaluated_again_with_the_same_levels(spoiled, tmp_path, capsys):
    path = tmp_path / "root" / "tiny" / "evaluation.json"
    before = json.loads(path.read_text())
    few = ["evaluation.num_tasks=1", "evaluation.episodes=1", "evaluation.max_steps=3"]
    few += ["~evaluation.baselines.flat", "~evaluation.baselines.flat_graph"]
    assert main(["evaluate", *spoiled, "planner.budget=130", *few]) == 0
    assert "reused" not in capsys.readouterr().out
    after = json.loads(path.read_text())
    assert after["identity"] != before["identity"]
    assert list(after["agents"]) == ["hierarchical"]
    kept = path.with_stem(f"evaluation-{before['identity']}")
    assert json.loads(kept.read_text()) == before
    assert kept.with_suffix(".npz").exists()


def test_stopped_by_hand(spoiled, capsys, monkeypatch):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr("hiwm.experiment.train", interrupted)
    assert main(["train", *spoiled]) == 130
    assert "Run the same command to continue" in capsys.readouterr().err


PART = """
from hiwm.levels.encoders.mlp import MLPEncoder


class WideEncoder(MLPEncoder):
    '''A user's own part.'''
"""


def test_without_mlflow_and_with_a_custom_part(tiny_run, tmp_path):
    """`my_parts.py` is found in the current folder, and nothing needs MLflow when tracking is none."""
    (tmp_path / "my_parts.py").write_text(PART)
    (tmp_path / "broken" / "mlflow").mkdir(parents=True)
    (tmp_path / "broken" / "mlflow" / "__init__.py").write_text("raise ImportError('no mlflow here')\n")
    command = tiny.overrides(
        tmp_path / "root",
        f"dataset.path={tiny_run.config.dataset.path}",
        "allow=[tiny,my_parts]",
        "levels.level1.encoder._target_=my_parts.WideEncoder",
        "training.steps=5",
        "evaluation.num_tasks=1",
        "evaluation.episodes=1",
        "evaluation.max_steps=3",
    )
    path = os.pathsep.join([str(tmp_path / "broken"), os.environ["PYTHONPATH"]])
    script = (
        "import sys\n"
        "from hiwm.cli import main\n"
        "assert main(['train', *sys.argv[1:]]) == 2\n"
        "assert main(['run', *sys.argv[1:], 'tracking=none']) == 0\n"
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "script.py").write_text(script)  # not in the current folder: main() must add that one
    done = python(str(tmp_path / "elsewhere" / "script.py"), *command, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("hiwm train")]
    assert "tracking is 'mlflow': no mlflow here" in line
    assert (tmp_path / "root" / "tiny" / "report.html").exists()
    saved = (tmp_path / "root" / "tiny" / "hierarchy" / "hierarchy.yaml").read_text()
    assert "my_parts.WideEncoder" in saved


def test_full_error_raises_the_error(monkeypatch, tmp_path):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="stepz"):
        main(["train", *tiny.overrides(tmp_path, "training.stepz=3")])


@pytest.mark.parametrize("override", ["+environment.options={'a,b': 1}", "root=[a", "nonsense", "+x={a: 1"])
def test_an_override_that_cannot_be_read_is_named(tmp_path, override, capsys):
    assert main(["collect", *tiny.overrides(tmp_path, override)]) == 2
    message = capsys.readouterr().err
    assert (
        f"hiwm collect: {override!r} is not an override: " in message
        or f'hiwm collect: "{override}" is not an override: ' in message
    )
    assert message.count("\n") == 1


def test_a_terminal_that_knows_ascii_alone_stops_nothing(tiny_run, tmp_path):
    """The state probe prints R\u00b2; a name may hold any letter."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    command = tiny.overrides(
        tmp_path, "tracking=none", f"dataset.path={tiny_run.config.dataset.path}", "name='\u043b'", "training.steps=2"
    )
    done = subprocess.run([sys.executable, "-m", "hiwm", "train", *command], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert rb"R\xb2" in done.stdout
    assert rb"\u043b" in done.stdout
