"""The experiment that ships with hiwm."""

from functools import partial

import numpy as np
import pytest

import hiwm
from hiwm.analysis.report import report
from hiwm.config import load_config
from hiwm.evaluation.results import read_results
from hiwm.experiment import evaluate, train
from hiwm.files import read_yaml


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example") / "my runs"
    hiwm.load_example(folder)
    return folder


def config_of(root):
    return load_config(["experiment=example", f"root='{root}'", "tracking=none", "threads=1", "device=cpu"])


def test_the_agent_acts_as_when_it_was_evaluated(root):
    from hiwm.envs.pointmaze import PointMaze

    agent = hiwm.load_example(root)
    protocol = config_of(root).evaluation
    make_env = partial(PointMaze, maze="medium")
    numbers = agent.evaluate(make_env, num_tasks=1, episodes=3, max_steps=protocol.max_steps, seed=protocol.seed)
    recorded = read_results(root / "example" / "evaluation.json")["agents"]["hierarchical"]
    assert numbers["per_task"]["1"]["solved"] == recorded["per_task"]["1"]["solved"][:3]


def test_it_belongs_to_the_shipped_configuration(root, capsys):
    """Commands find everything trained and evaluated; after a change of the configuration, run `make example`."""
    config = config_of(root)
    assert read_yaml(root / "example" / "config.yaml")["root"] == str(root)
    train(config)
    said = capsys.readouterr().out
    assert said.count("trained already, reused") == 3
    evaluate(config)
    assert "reused" in capsys.readouterr().out
    assert report(config).exists()


def test_a_second_call_keeps_what_is_there(root):
    weights = root / "example" / "hierarchy" / "level1.safetensors"
    before = weights.stat().st_mtime_ns
    agent = hiwm.load_example(root)
    assert weights.stat().st_mtime_ns == before
    assert np.isfinite(agent.encode(np.zeros(2, np.float32))[2]).all()


def test_an_interrupted_copy_is_completed(tmp_path):
    hiwm.load_example(tmp_path)
    (tmp_path / "example" / "config.yaml").unlink()  # written last
    (tmp_path / "datasets" / "example.h5").unlink()
    hiwm.load_example(tmp_path)
    assert (tmp_path / "datasets" / "example.h5").exists()
