"""Everything on a GPU: on the simulated device, or on a real one (`make gpu`, which sets HIWM_GPU)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import counting
import numpy as np
import pytest
import tiny
import torch
from simulated_device import CUDA, Counts, simulated_device
from test_loop import SHORT, Killed

from hiwm.agent import load_agent
from hiwm.config import load_config
from hiwm.data.store import open_dataset
from hiwm.evaluation.recording import Recorder
from hiwm.experiment import collect, evaluate, train
from hiwm.planning.goals import ObservationGoal
from hiwm.planning.noise import EpisodeNoise
from hiwm.training.distributed import Processes
from hiwm.training.stages import Report, train_hierarchy

ALONE = Processes(0, 1, CUDA)
#: waits of a plan besides the one for its action, where the planner decides by what it finds: whether a waypoint is reached,
#: whether a path over the graph failed, and on each of two levels whether a subgoal failed
MORE_WAITS = {"waypoints": 3, "ensemble": 2, "closed_door": 2}


@pytest.fixture
def counts():
    """A GPU, and counts of what is copied and waited for; on a real one they stay 0."""
    if counting.REAL:
        yield Counts()
        return
    with simulated_device() as counts:
        yield counts


simulated = pytest.mark.skipif(counting.REAL, reason="about the simulated device")


@simulated
def test_tensors_of_two_devices_do_not_meet(counts):
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    for mixed in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: here[there > 0],
        lambda: torch.nn.functional.linear(there, here.expand(2, 3)),
        lambda: torch.randn(2, generator=torch.Generator("cuda")),
        lambda: torch.randn(2, generator=torch.Generator(), device="cuda"),
    ):
        with pytest.raises(RuntimeError, match="device"):
            mixed()
    with pytest.raises(TypeError, match="cpu"):
        there.numpy()
    assert (there + torch.tensor(1.0)).device == CUDA  # a scalar is an argument of the kernel
    assert (there + 1).cpu().tolist() == [2, 2, 2]


@simulated
@pytest.mark.parametrize(
    ("operation", "uploads", "downloads", "waits"),
    [
        (lambda x: x * 2 + x.sum(), 0, 0, 0),
        (lambda x: x[torch.arange(2, device="cuda")], 0, 0, 0),
        (lambda x: torch.where(x > 0, x, 0.0), 0, 0, 0),
        (lambda x: x.sum().item(), 0, 0, 1),
        (lambda x: bool((x > 0).any()), 0, 0, 1),
        (lambda x: x[x > 0], 0, 0, 1),
        (lambda x: x.tolist(), 0, 0, 1),
        (lambda x: torch.equal(x, x), 0, 0, 1),
        (lambda x: x.nonzero(), 0, 0, 1),
        (lambda x: x.unique(), 0, 0, 1),
        (lambda x: x.cpu(), 0, 1, 1),
        (lambda x: torch.ones(2).to(x.device), 1, 0, 1),
        (lambda x: torch.ones(2).to(x), 1, 0, 1),
        (lambda x: torch.ones(2).pin_memory().to(x.device, non_blocking=True), 1, 0, 0),
        (lambda x: x.copy_(torch.ones(3)), 1, 0, 1),
        (lambda x: x.to("cuda"), 0, 0, 0),
    ],
)
def test_copies_and_waits_are_counted(counts, operation, uploads, downloads, waits):
    x = torch.ones(3, device="cuda")
    counts.reset()
    operation(x)
    assert (counts.uploads, counts.downloads, counts.waits) == (uploads, downloads, waits)


@pytest.mark.parametrize("name", counting.TRAINABLES)
def test_a_training_step_waits_for_nothing(name, counts):
    found = counting.training_step(name, counts)
    masks = (
        2 if name.startswith("pretraining=") and not counting.REAL else 0
    )  # numbers of the visible and of the masked patches
    assert (found.uploads, found.downloads, found.waits) == (masks, 0, 0), found.where


@simulated
def test_a_step_of_the_loop_uploads_its_batch_and_nothing_else_also_after_a_resumption(tiny_run, tmp_path, counts):
    stack = replace(tiny_run.config.hierarchy, levels=tiny_run.config.hierarchy.levels[:2])
    training = tiny_run.config.training.changed({**SHORT, "evaluate_every": 40, "steps": 40})
    steps: dict[int, Counts] = {}
    killed: list[int] = []

    def report(k, progress):
        if k == 1:
            steps[progress.step] = counts.copy()
            if progress.step == 20 and not killed:
                killed.append(k)
                raise Killed
        counts.reset()

    for _ in range(2):
        with suppress(Killed):
            train_hierarchy(
                stack, training, open_dataset(tiny_run.config.dataset.path), seed=0, folder=tmp_path, processes=ALONE,
                report=Report(step=report),
            )  # fmt: skip
    assert set(steps) == set(range(41))
    for step in {*range(1, 40)} - {20}:  # at 0 and 40 it is validated; at 20 the checkpoint is loaded
        found = steps[step]
        # the inputs and actions of the windows; of pairs source, action, target and the steps between them
        assert (found.uploads, found.downloads) == (6, 0), (step, found.where)
        # a checkpoint is saved at every step here, and waits until gradients and weights are known to be finite
        assert found.waits == 2, (step, found.where)
        assert all("divergence.py" in place for place in found.where)


@pytest.mark.parametrize("name", counting.EXPERIMENTS)
def test_training_and_planning_of_every_experiment(name, counts, tmp_path):
    for agent, inputs, plans in counting.plans(name, tmp_path, counts):
        for step, found in enumerate(plans[1:], 1):  # the first may search the graph
            assert found.waits <= 1 + MORE_WAITS.get(name, 0), (agent, step, found.where)
            assert found.downloads <= 1 + MORE_WAITS.get(name, 0)
            assert found.uploads <= inputs


@simulated
def test_plans_on_the_device_are_those_on_the_cpu(tiny_run, counts):
    home = tiny_run.folder / "hierarchy"
    state, goal = np.random.default_rng(0).uniform(0, 1, (2, 3, 2)).astype(np.float32)
    actions = []
    for device in ("cpu", "cuda"):
        agent = load_agent(home, device)
        there = {"state": torch.from_numpy(goal).to(device)}
        agent.planner.start(
            ObservationGoal(agent.hierarchy.encode(there)), EpisodeNoise(range(len(next(iter(there.values())))))
        )
        now = {"state": torch.from_numpy(state).to(device)}
        actions.append(torch.stack([agent.planner.plan(now).action for _ in range(6)]))
    torch.testing.assert_close(actions[1], actions[0], rtol=1e-3, atol=1e-4)


@simulated
def test_recording_a_step_waits_for_nothing(tiny_run, counts):
    agent = load_agent(tiny_run.folder / "hierarchy", "cuda")
    state, goal = np.random.default_rng(0).uniform(0, 1, (2, 3, 2)).astype(np.float32)
    agent.reset(goal)
    recorder = Recorder(agent, [], 3, 30)
    for step in range(7):
        agent.act(state)
        counts.reset()
        recorder.step(step, np.arange(3), state, agent.plan)
        assert (counts.waits, counts.uploads, counts.downloads) == (0, 0, 0)
    (trace,) = recorder.traces(1, range(3), goal, [np.zeros((0, 4))] * 3)
    assert trace.levels[0].plans["step"].tolist() == [0, 3, 6]


def test_words_and_evaluation(counts, tmp_path, monkeypatch):
    class MiniLM:
        """In place of the model, which is on the CPU and made on torch's meta device, which the simulated one uses."""

        def encode(self, captions, **_):
            return np.stack([np.random.default_rng(len(x)).normal(size=384).astype(np.float32) for x in captions])

    monkeypatch.setattr("hiwm.heads.text._minilm", MiniLM)
    changes = [
        "device=cuda",
        "tracking=none",
        "training.steps=3",
        "text.learn=true",
        "text.steps=3",
        "evaluation.max_steps=3",
    ]
    overrides = tiny.overrides(tmp_path, *changes, "training.joint=true", "goal.columns=[state]", "goal.steps=3")
    config = load_config(overrides)
    collect(config)
    train(config)
    assert set(evaluate(config)["agents"]) == {"hierarchical", "flat", "flat_graph"}
    agent = load_agent(config.folder / "hierarchy", "cuda")
    agent.reset("go on the left side")
    assert np.isfinite(agent.act(np.full(2, 0.3, np.float32))).all()


@simulated
@pytest.mark.parametrize("name", ["value", "action prior"])
def test_a_step_of_a_head_waits_for_nothing(name, tiny_run, counts):
    spec = tiny_run.config.levels_folder
    cache = next(spec.rglob("latents.h5"))
    found = counting.head_step(name, cache, counts)
    assert (found.uploads, found.downloads, found.waits) == (0, 0, 0)


@simulated
def test_float32_is_tf32_in_training_steps_alone(counts):
    module, clip = counting.make("level=state")
    seen = []
    module.to(CUDA).encoder.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    state = counting._State(module, counting.ONCE, CUDA)
    state.step(module, clip.map(lambda x: x.to(CUDA)), torch.Generator(CUDA).manual_seed(0))
    assert seen
    assert set(seen) == {"high"}
    assert torch.get_float32_matmul_precision() == "highest"
