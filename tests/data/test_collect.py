import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial

import gymnasium
import numpy as np
import pytest
import tiny
from gymnasium.spaces import Box, Dict

from hiwm.cli import main
from hiwm.data.collect import Collection, collect
from hiwm.data.policies import MixturePolicy, NoisyExpertPolicy, SmoothPolicy, UniformPolicy

STEPS = 7


class Walk(gymnasium.Env):
    """x moves by action and noise; the episode ends after `stop` steps, 3 to 10 of them, drawn from the seed."""

    action_space = Box(-1, 1, (2,), np.float32)

    def __init__(self, images=False, expert=False):
        self.images, self.expert = images, expert
        vector = Box(-np.inf, np.inf, (4,), np.float64)
        self.observation_space = Dict(where=vector, pixels=Box(0, 255, (2, 2, 3), np.uint8)) if images else vector

    def observe(self):
        info = {"expert_action": -2 * self.x} if self.expert else {}
        vector = np.array([*self.x, self.time, self.stop])
        if not self.images:
            return vector, info
        return {"where": vector, "pixels": np.full((2, 2, 3), self.time, np.uint8)}, info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.time = self.np_random.normal(size=2), 0
        self.stop = int(self.np_random.integers(3, 11))
        return self.observe()

    def step(self, action):
        self.x = self.x + action + 0.1 * self.np_random.normal(size=2)
        self.time += 1
        observation, info = self.observe()
        return observation, 0.0, self.time >= self.stop, False, info


class Start(Walk):
    """Draws its start from the generator of gymnasium."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        gymnasium.Env.reset(self, seed=seed)
        self.x = self.np_random.uniform(-1, 1, 2)
        return self.observe()


class Counted(Walk):
    """Writes to a file that it was made."""

    def __init__(self, log):
        super().__init__()
        with open(log, "a") as file:
            file.write(".")


def run(workers=1, num_envs=4, episodes=10, policy=None, make_env=None, seed=0):
    make_env = make_env or partial(Walk)
    policy = policy or partial(UniformPolicy, repeat=2)
    collection = Collection(make_env, policy, episodes, STEPS, seed, "state", num_envs)
    return list(collect(collection, workers))


def assert_equal(left, right):
    assert len(left) == len(right)
    for mine, theirs in zip(left, right, strict=True):
        assert set(mine) == set(theirs)
        for name in mine:
            assert mine[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(mine[name], theirs[name])


@pytest.fixture(scope="module")
def reference():
    return run()


def test_columns(reference):
    assert len(reference) == 10
    for episode in reference:
        n = len(episode["state"])
        assert episode["state"].shape == (n, 4)
        assert episode["action"].shape == (n, 2)
        assert {c.dtype for c in episode.values()} == {np.dtype(np.float32)}


def test_an_episode_ends_with_its_final_observation(reference):
    lengths = [len(episode["state"]) for episode in reference]
    for episode, length in zip(reference, lengths, strict=True):
        stop = episode["state"][0, 3]
        assert length == min(STEPS, stop + 1)
        np.testing.assert_array_equal(episode["state"][:, 2], np.arange(length))
    assert min(lengths) < STEPS  # some terminate
    assert max(lengths) == STEPS  # some do not
    assert len(set(lengths)) > 2


def test_actions_are_those_taken_at_their_row(reference):
    for episode in reference:
        moved = np.diff(episode["state"][:, :2], axis=0)
        assert np.abs(moved - episode["action"][:-1]).max() < 0.6  # noise of 0.1
        assert np.corrcoef(moved.ravel(), episode["action"][:-1].ravel())[0, 1] > 0.8


def test_episodes_differ(reference):
    assert len({episode["state"][0, 0] for episode in reference}) == len(reference)
    assert len({episode["action"][0, 0] for episode in reference}) == len(reference)


@pytest.mark.parametrize("num_envs", [1, 3, 10, 16])
def test_data_do_not_depend_on_num_envs(reference, num_envs):
    assert_equal(run(num_envs=num_envs), reference)


def test_data_do_not_depend_on_workers(reference):
    assert_equal(run(workers=2, num_envs=3), reference)


def test_fewer_episodes_are_the_first_ones(reference):
    assert_equal(run(episodes=3), reference[:3])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("first", [0, 1, 7, 10])
def test_collection_can_start_at_a_later_episode(reference, workers, first):
    if workers == 1 or first == 7:  # a pool is slow to start
        rest = collect(Collection(Walk, partial(UniformPolicy, repeat=2), 10, STEPS, 0, "state", 4), workers, first)
        assert_equal(list(rest), reference[first:])


def test_data_depend_on_the_seed(reference):
    assert not np.array_equal(run(seed=1)[0]["state"][0], reference[0]["state"][0])


def test_num_envs_may_grow_between_collections_of_one_environment(reference):
    assert_equal(run(num_envs=2, make_env=Walk), reference)
    assert_equal(run(num_envs=5, make_env=Walk), reference)


def test_named_observations_become_columns():
    for episode in run(make_env=partial(Walk, images=True)):
        assert set(episode) == {"where", "pixels", "action"}
        assert episode["where"].dtype == np.float32
        assert episode["pixels"].dtype == np.uint8
        np.testing.assert_array_equal(episode["pixels"][:, 0, 0, 0], episode["where"][:, 2])


def test_uniform_policy_repeats():
    policy = UniformPolicy(repeat=3)
    policy.reset([5, 6], Box(-2, 4, (2,), np.float32), 8)
    actions = np.stack([policy.act(np.zeros((2, 1)), {}, step) for step in range(8)])
    assert actions.shape == (8, 2, 2)
    assert actions.dtype == np.float32
    for first in (0, 3, 6):
        np.testing.assert_array_equal(
            actions[first : first + 3], np.broadcast_to(actions[first], actions[first : first + 3].shape)
        )
    assert len(np.unique(actions)) == 3 * 2 * 2
    assert actions.min() >= -2
    assert actions.max() <= 4


def test_uniform_policy_fills_the_action_space():
    policy = UniformPolicy()
    policy.reset([0], Box(np.array([-2, 0], np.float32), np.array([4, 1], np.float32)), 2000)
    actions = np.stack([policy.act(np.zeros((1, 1)), {}, step)[0] for step in range(2000)])
    np.testing.assert_allclose(actions.min(0), [-2, 0], atol=0.05)
    np.testing.assert_allclose(actions.max(0), [4, 1], atol=0.05)


def test_expert_without_noise_is_followed():
    expert = partial(NoisyExpertPolicy, noise=0.0)
    for episode in run(policy=expert, make_env=partial(Walk, expert=True)):
        # while an episode runs; the action of its last row is never executed
        expected = np.clip(-2 * episode["state"][:-1, :2], -1, 1)
        np.testing.assert_allclose(episode["action"][:-1], expected, rtol=1e-5)


def test_expert_noise_has_its_standard_deviation_and_is_clipped():
    policy = NoisyExpertPolicy(noise=0.3)
    policy.reset([0, 1], Box(-1, 1, (2,), np.float32), 2000)
    infos = {"expert_action": np.array([[0.0, 0.9], [0.0, -0.9]])}
    actions = np.stack([policy.act(np.zeros((2, 1)), infos, step) for step in range(2000)])
    assert actions[..., 0].std() == pytest.approx(0.3, rel=0.05)
    assert np.abs(actions).max() == 1
    assert not np.array_equal(actions[:, 0, 0], actions[:, 1, 0])


def test_expert_policy_needs_an_expert():
    with pytest.raises(ValueError, match="expert_action"):
        run(policy=partial(NoisyExpertPolicy, noise=0.1))


def test_actions_do_not_reuse_the_numbers_of_the_start():
    for episode in run(make_env=Start, policy=UniformPolicy):
        assert not np.allclose(episode["state"][0, :2], episode["action"][0])


def test_a_worker_keeps_its_environments(tmp_path):
    log = tmp_path / "made"
    run(workers=2, num_envs=2, episodes=10, make_env=partial(Counted, log))
    assert len(log.read_text()) <= 2 * 2


def drawn(policy, seeds, steps=200, infos=None):
    policy.reset(seeds, Box(-1, 1, (2,), np.float32), steps)
    return np.stack([policy.act(np.zeros((len(seeds), 2)), infos or {}, t) for t in range(steps)])  # (T, B, 2)


def test_smooth_policy_turns_slowly_at_its_speed():
    actions = drawn(SmoothPolicy(speed=0.6, switch_steps=40), range(20))
    length = np.linalg.norm(actions, axis=2)
    assert length.mean() == pytest.approx(0.6, abs=0.05)
    heading = np.unwrap(np.arctan2(actions[..., 1], actions[..., 0]), axis=0)
    assert np.abs(np.diff(heading, axis=0)).max() <= 0.5 + 1e-6
    assert np.ptp(heading, axis=0).min() > 0.5  # it does turn
    alone = drawn(SmoothPolicy(speed=0.6, switch_steps=40), [7])
    assert np.array_equal(alone[:, 0], actions[:, 7])


def test_smooth_policy_needs_actions_in_the_plane():
    with pytest.raises(ValueError, match=r"shape of an action is \(3,\); expected \(2,\)"):
        SmoothPolicy().reset([0], Box(-1, 1, (3,), np.float32), 5)


def test_expert_actions_are_repeated_with_the_given_frequency():
    infos = {"expert_action": np.zeros((30, 2))}
    for share in (0.0, 0.3):
        actions = drawn(NoisyExpertPolicy(noise=0.2, repeat_share=share), range(30), infos=infos)
        again = (actions[1:] == actions[:-1]).all(2).mean()
        assert again == pytest.approx(share, abs=0.03)


def test_a_mixture_follows_one_policy_a_whole_episode():
    infos = {"expert_action": np.zeros((40, 2))}
    one, two = NoisyExpertPolicy(noise=0.1), UniformPolicy()
    mixed = drawn(MixturePolicy(policies=[one, two]), range(40), infos=infos)
    parts = [drawn(policy, range(40), infos=infos) for policy in (one, two)]
    followed = [(mixed == part).all((0, 2)) for part in parts]
    assert (followed[0] ^ followed[1]).all()
    assert 8 < followed[0].sum() < 32
    assert np.array_equal(
        drawn(MixturePolicy(policies=[one, two]), [5], infos={"expert_action": np.zeros((1, 2))})[:, 0], mixed[:, 5]
    )


def overrides(root, *more):
    return tiny.overrides(root, "dataset.episodes=301", "dataset.steps=41", *more)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    assert main(["collect", *overrides(root)]) == 0
    return (root / "datasets" / "tiny.h5").read_bytes()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_collection_continues(tmp_path, capfd, uninterrupted, workers, end):
    command = ["collect", *overrides(tmp_path, f"dataset.workers={workers}")]
    path, parts = tmp_path / "datasets" / "tiny.h5", tmp_path / "datasets" / "tiny.parts"
    killed = subprocess.Popen(
        [sys.executable, "-m", "hiwm", *command],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored below a shell's background job
    )
    try:
        for _ in range(12_000):  # two minutes, on a machine with other things to do
            if (parts / "ep_len").exists() and (parts / "ep_len").read_bytes().count(b"\n") > 20:
                break
            time.sleep(0.01)
        os.kill(killed.pid, end)
        killed.wait(120)
        assert not path.exists()
        there = (parts / "ep_len").read_bytes().count(b"\n") - 1
        assert 20 <= there < 301
    finally:
        killed.kill()
    capfd.readouterr()
    assert main(command) == 0
    assert f"{there} of 301 episodes exist, continuing" in capfd.readouterr().out
    assert path.read_bytes() == uninterrupted
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_another_collection_does_not_continue_this_one(tmp_path, capfd):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hiwm.experiment.collection.Bar.update", interrupt)
        assert main(["collect", *overrides(tmp_path)]) == 130
    assert main(["collect", *overrides(tmp_path, "dataset.seed=1")]) == 2
    message = capfd.readouterr().err
    assert "tiny.parts holds 1 episodes with" in message
    assert "'seed': 1" in message
    assert "remove the folder" in message


def interrupt(*_):
    raise KeyboardInterrupt


class FailsInWorkers(Walk):
    """Cannot be made in another process, as without a display."""

    def __init__(self):
        if multiprocessing.parent_process() is not None:
            raise RuntimeError("no display in this process")
        super().__init__()


class EndsItsProcess(Walk):
    """A worker that is killed, as by a machine out of memory."""

    def step(self, action):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def test_an_environment_that_cannot_be_made_in_a_worker_is_named_once(capfd):
    with pytest.raises(
        ValueError, match=r"worker process: RuntimeError: no display in this process. Set dataset.workers=1"
    ):
        run(workers=2, make_env=FailsInWorkers)
    assert "Traceback" not in capfd.readouterr().err
    assert len(run(workers=1, make_env=FailsInWorkers)) == 10


class Breaks(Walk):
    """Fails in the middle of an episode."""

    def step(self, action):
        if self.time == 2:
            raise KeyError("wheel")
        return super().step(action)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_inside_an_environment_names_it_and_the_step(workers):
    with pytest.raises(ValueError, match=r"Breaks: step 3 of an episode raises KeyError: 'wheel'. Episodes that are"):
        run(workers=workers, make_env=Breaks)


class GreyImages(tiny.TinyRoom):
    """Images without an axis of channels."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.observation_space = Box(0, 255, (16, 16), np.uint8)

    def _observation(self):
        return np.full((16, 16), 255 * self.position[0], np.uint8)


def test_images_that_the_encoder_cannot_read_are_refused_before_any_episode(tmp_path, capfd):
    images = ["environment._target_=test_collect.GreyImages", "allow=[tiny,test_collect]", "dataset.column=pixels"]
    images += ["inputs=[pixels]", "state=[pixels]", "encoder@levels.level0.encoder=conv"]
    assert main(["collect", *tiny.overrides(tmp_path, *images)]) == 2
    assert "ConvEncoder: inputs are {'pixels': (16, 16)}; expected at least one image" in capfd.readouterr().err
    assert not [*tmp_path.rglob("tiny.*parts*"), *tmp_path.rglob("*.h5")]


def test_a_worker_that_is_killed_ends_the_collection():
    with pytest.raises(ValueError, match=r"dataset.workers is 2, and a worker process ended without a result"):
        run(workers=2, make_env=EndsItsProcess)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_script_without_a_guard(tmp_path, workers):
    """With one worker it works; with more it says what is missing, and ends."""
    script = tmp_path / "job.py"
    script.write_text(
        "from hiwm.config import load_config\nfrom hiwm.experiment import collect\n"
        f"collect(load_config({[*tiny.overrides(tmp_path), 'dataset.episodes=12', f'dataset.workers={workers}']}))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) == (workers == 1), done.stderr
    assert (tmp_path / "datasets" / "tiny.h5").exists() == (workers == 1)
    if workers > 1:
        assert 'the script that runs has no `if __name__ == "__main__":`' in done.stderr
        assert done.stderr.count("Traceback") <= 3  # one error and its causes, none from a worker
