"""The Python API: train on arrays, encode, look at a plan."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import tiny

import hiwm
from hiwm.config import ConfigError
from hiwm.data.columns import DatasetError
from hiwm.data.store import open_dataset
from hiwm.envs.contract import ContractError
from hiwm.evaluation.results import read_results
from hiwm.training.checkpoint import METRICS

SMALL = ["training.steps=20", "training.batch=32", "graph.num_nodes=20", "graph.num_candidates=200", "tracking=none",
         "graph.num_transitions=500", "threads=1", "device=cpu"]  # fmt: skip


def walks(episodes=12, steps=60, seed=0):
    """Random walks in a plane, (episodes, steps, 2) each."""
    action = np.random.default_rng(seed).uniform(-1, 1, (episodes, steps, 2)).astype(np.float32)
    state = np.cumsum(action, 1) - action
    return {"state": 0.1 * state, "action": action}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("api")
    return hiwm.train(walks(), strides=[1, 5], root=root, overrides=SMALL), root


def test_arrays_become_an_agent_with_these_strides(trained):
    agent, _ = trained
    assert agent.hierarchy.strides == (1, 5)
    agent.reset(np.array([1.0, 0.0], np.float32))
    assert agent.act(np.zeros(2, np.float32)).shape == (2,)


def test_the_same_arrays_in_another_form_reuse_every_level(trained):
    agent, root = trained
    times = {path: path.stat().st_mtime_ns for path in (root / "levels").glob(f"*/{METRICS}")}
    data = walks()
    flat = {name: rows.reshape(-1, 2) for name, rows in data.items()}
    episodes = [{name: rows[i] for name, rows in data.items()} for i in range(len(data["action"]))]
    for other in ((flat, [60] * 12), (episodes, None)):
        again = hiwm.train(other[0], strides=[1, 5], root=root, lengths=other[1], overrides=SMALL)
        assert [spec.fingerprint for spec in again.hierarchy.specs] == [s.fingerprint for s in agent.hierarchy.specs]
    assert times == {path: path.stat().st_mtime_ns for path in (root / "levels").glob(f"*/{METRICS}")}
    assert len(list((root / "datasets").glob("*.h5"))) == 1


def test_four_levels_and_a_dataset_by_its_path(trained, tmp_path):
    _, root = trained
    (path,) = (root / "datasets").glob("*.h5")
    agent = hiwm.train(path, strides=[1, 3, 2, 2], root=tmp_path, seed=1, overrides=[*SMALL, "name=deep"])
    assert agent.hierarchy.periods == (1, 3, 6, 12)
    assert [level.p for level in agent.hierarchy.levels] == [2, 1, 1, 1]
    planners = [agent.config.level(k) for k in (1, 2, 3)]
    assert {(each.proposal.center, each.support_weight, each.horizon) for each in planners} == {("retrieval", 1.0, 4)}
    assert (tmp_path / "deep" / "seed1" / "hierarchy").exists()


def test_images_get_a_level_of_pixels(tmp_path):
    rng = np.random.default_rng(0)
    data = {**walks(6, 40), "camera": rng.integers(0, 255, (6, 40, 16, 16, 3), dtype=np.uint8)}
    agent = hiwm.train(data, strides=[1], root=tmp_path / "it's a $root", overrides=SMALL)
    assert dict(agent.inputs) == {"camera": (16, 16, 3)}
    assert type(agent.hierarchy.levels[0].encoder).__name__ == "ConvEncoder"


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (walks(), {"strides": []}, "strides is empty"),
        (walks(), {"inputs": ["speed"]}, "inputs has 'speed'; expected columns of the dataset: state"),
        ({"action": walks()["action"]}, {}, "expected images or vectors besides 'action'"),
        ({**walks(), "state": np.zeros((12, 59, 2))}, {}, "expected .episodes, steps. for all"),
        ({**walks(), **{k: np.zeros((12, 60, 8, 8, 3), np.uint8) for k in "ab"}}, {}, "image columns a, b"),
    ],
)
def test_what_cannot_be_used_is_named(data, arguments, message, tmp_path):
    with pytest.raises((DatasetError, ValueError), match=message):
        hiwm.train(data, root=tmp_path, overrides=SMALL, **arguments)


def test_a_part_of_a_dataset_is_refused(tiny_run):
    part = open_dataset(tiny_run.config.dataset.path).split(0.2)[0]
    with pytest.raises(DatasetError, match="data are a part of"):
        hiwm.train(part, root=tiny_run.root)


def test_names_and_seeds_reach_the_agent(tmp_path):
    agent = hiwm.train(walks(), strides=[1], name="my maze, 1", seed=3, root=tmp_path, overrides=SMALL)
    assert agent.seed == 3
    assert (tmp_path / "my maze, 1" / "seed3" / "hierarchy").exists()


def test_a_wrong_setting_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"training\.stepz"):
        hiwm.train(walks(), root=tmp_path, overrides=["training.stepz=3"])


def test_a_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, hiwm\n"
        "action = np.random.default_rng(0).uniform(-1, 1, (12, 60, 2)).astype(np.float32)\n"
        f"agent = hiwm.train({{'state': action.cumsum(1), 'action': action}}, [1, 5], root='runs', overrides={SMALL!r})\n"
        "print(agent)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "level 0: IdentityEncoder, 2 numbers, 1 step apart, level 1: MLPEncoder" in done.stdout.splitlines()[-1]


def test_encode_gives_the_latents_that_the_planner_sees(agent):
    observation = np.array([[0.2, 0.2], [0.7, 0.9]], np.float32)
    latents = agent.encode(observation)
    assert [len(latent) for latent in latents] == [2, 2, 2]
    single = agent.encode(observation[1])
    for of_batch, alone, level in zip(latents, single, agent.hierarchy.levels, strict=True):
        assert alone.shape == (level.encoder.dim,)
        np.testing.assert_allclose(of_batch[1], alone, atol=1e-5)


def test_a_plan_has_a_picture_and_a_short_name(agent, tmp_path):
    agent.reset(np.array([0.8, 0.2], np.float32))
    agent.act(np.array([0.2, 0.2], np.float32))
    figure = agent.plan.plot()
    assert len(figure.axes) == 2 * len(agent.hierarchy)
    titles = [axes.get_title(loc="left") for axes in figure.axes[::2]]
    assert titles == [f"level {k}, planned at step 0" for k in (2, 1, 0)]
    bottom = agent.plan.levels[0]
    drawn = next(line for line in figure.axes[-2].lines if line.get_label() == "predicted latents")
    np.testing.assert_allclose(np.stack(drawn.get_data(), 1), bottom.predicted[0].numpy())
    figure.savefig(tmp_path / "plan.png")
    assert repr(agent.plan).startswith("Plan(level 2 planned at step 0, level 1 planned at step 0")


def test_an_agent_evaluates_itself(agent, tiny_run):
    protocol = tiny_run.config.evaluation
    numbers = agent.evaluate(
        tiny.TinyRoom, num_tasks=2, episodes=3, max_steps=protocol.max_steps, num_envs=2, seed=protocol.seed
    )
    recorded = read_results(tiny_run.folder / "evaluation.json")["agents"]["hierarchical"]
    assert {task: each["solved"] for task, each in numbers["per_task"].items()} == {
        task: each["solved"] for task, each in recorded["per_task"].items()
    }
    env = tiny.TinyRoom()
    one = agent.evaluate(env, episodes=1, max_steps=5)
    assert list(one["per_task"]) == ["1", "2", "3"]  # all tasks of the environment
    env.reset()  # still open


def test_an_evaluation_leaves_the_agent_as_it_is(agent):
    learning = agent.with_planner(failure_penalty=1, graph="follow")
    learning.reset(np.array([0.8, 0.2], np.float32))
    learning.act(np.array([0.2, 0.2], np.float32))
    plan, memory = learning.plan, learning.edge_memory
    alone = learning.evaluate(tiny.TinyRoom, num_tasks=1, episodes=2, max_steps=60, num_envs=1)
    together = learning.evaluate(tiny.TinyRoom, num_tasks=1, episodes=2, max_steps=60, num_envs=2)
    assert alone["per_task"] == together["per_task"]  # episodes do not teach each other
    assert learning.plan is plan
    assert learning.edge_memory is memory


def test_an_environment_that_lacks_something_is_refused(agent):
    with pytest.raises(ContractError, match="goal"):
        agent.evaluate(lambda: gymnasium.make("Pendulum-v1"))


def test_dir_shows_the_public_names_alone():
    assert dir(hiwm) == ["Agent", "Plan", "__version__", "load_agent", "load_example", "train"]
    assert all(hasattr(hiwm, name) for name in dir(hiwm))
