import numpy as np
import pytest
import torch

from hiwm.data.store import Trajectories
from hiwm.planning.goals import ObservationGoal, PartGoal, squared_distance
from hiwm.planning.readout import GoalConfig, Readout, fit_readout, goal_part


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Latents that bend the state; a part of it is what goals are about."""
    rng = np.random.default_rng(0)
    state = rng.normal(size=(2000, 3)).astype(np.float32) * [1, 10, 100] + [0, 5, 0]
    turn = rng.normal(size=(3, 6))
    latent = np.tanh(0.3 * ((state - state.mean(0)) / state.std(0)) @ turn).astype(np.float32)
    columns = {"latent": latent, "cube": state[:, :2].astype(np.float32), "arm": state[:, 2:].astype(np.float32)}
    return Trajectories(tmp_path_factory.mktemp("data"), columns, np.full(20, 100), np.arange(20) * 100)


@pytest.fixture(scope="module")
def readout(dataset):
    part = goal_part(dataset, ["cube"])
    config = GoalConfig(columns=["cube"], width=64, steps=600, batch=256)
    return fit_readout(dataset, part, config, validation=0.2, seed=0, device=torch.device("cpu"))


def test_a_readout_reads_the_part_and_knows_its_error(dataset, readout):
    held_out = slice(1600, 2000)
    read = readout(torch.from_numpy(dataset.column("latent")[held_out])).numpy()
    error = np.sqrt(np.square(read - dataset.column("cube")[held_out]).mean(0))
    np.testing.assert_allclose(readout.error.numpy(), error, rtol=1e-4)
    assert (error < 0.25 * dataset.column("cube").std(0)).all()  # units differ tenfold


def test_a_readout_does_not_learn_from_held_out_episodes(dataset, readout):
    part = goal_part(dataset, ["cube"]).copy()
    part[1600:] = 1e3
    config = GoalConfig(columns=["cube"], width=64, steps=600, batch=256)
    again = fit_readout(dataset, part, config, validation=0.2, seed=0, device=torch.device("cpu"))
    assert torch.equal(again.mean, readout.mean)
    assert torch.equal(again.net[0].weight, readout.net[0].weight)
    assert again.error.min() > 100


def test_a_readout_is_saved_whole(readout, tmp_path):
    readout.save(tmp_path / "readout.safetensors")
    loaded = Readout.load(tmp_path / "readout.safetensors")
    latent = random(5, 6)
    assert torch.equal(loaded(latent), readout(latent))
    assert torch.equal(loaded.error, readout.error)


def goals(readout):
    return {
        "observation": ObservationGoal([random(4, 6, seed=1), random(4, 6, seed=2)]),
        "part": PartGoal(random(4, 2, seed=3), [readout, readout]),
    }


@pytest.mark.parametrize("name", ["observation", "part"])
def test_every_goal_measures_each_episode_by_itself(readout, name):
    goal, latent = goals(readout)[name], random(4, 5, 7, 6)
    energy = goal.energy(1, latent)
    assert energy.shape == (4, 5, 7)
    assert energy.min() >= 0
    assert goal.size == 4
    torch.testing.assert_close(goal.energy(1, latent[:, 2, 3]), energy[:, 2, 3])
    rows = torch.tensor([2, 0])
    kept = goal.keep(rows)
    assert kept.size == 2
    torch.testing.assert_close(kept.energy(1, latent[rows]), energy[rows])


def test_goals_are_met_where_they_should_be(readout):
    latent = random(4, 6)
    whole = ObservationGoal([latent, 2 * latent])
    assert not whole.energy(1, 2 * latent).any()
    torch.testing.assert_close(whole.energy(0, 2 * latent), latent.square().sum(1))
    part = PartGoal(readout(latent), [readout])
    assert not part.energy(0, latent).any()
    assert part.latent(0) is None
    # in deviations of the data, so that units do not matter
    off = PartGoal(readout(latent) + readout.std, [readout])
    torch.testing.assert_close(off.energy(0, latent), torch.full((4,), 2.0), rtol=1e-3, atol=1e-4)


def test_squared_distance_goes_beside_its_own_row():
    points, target = random(3, 5, 2), random(3, 2, seed=1)
    expected = torch.stack([(points[i] - target[i]).square().sum(-1) for i in range(3)])
    torch.testing.assert_close(squared_distance(points, target), expected)
