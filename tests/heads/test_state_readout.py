import numpy as np
import pytest
import torch
from tiny import shipped

from hiwm.data.store import Trajectories
from hiwm.heads.optimize import FitData
from hiwm.heads.state_readout import StateReadout, fit_state_readout, goal_part
from hiwm.levels.parts import Predictor


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
    columns["action"] = np.roll(latent, -2, 0)  # says where the latent will be two rows on
    return Trajectories(tmp_path_factory.mktemp("data"), columns, np.full(20, 100), np.arange(20) * 100)


class Halfway(Predictor):
    """Of a level of two rows a step; gets only so far as a part of the way."""

    def __init__(self, share):
        super().__init__(6)
        self.share = share

    def forward(self, latent, action):
        return latent + self.share * (action - latent)


class Looking(Predictor):
    """Answers where it was a step before."""

    context = 2

    def forward(self, latent, action):
        raise AssertionError("it needs two latents")

    def start(self, latent):
        return latent, latent

    def step(self, state, action):
        return state[0], (state[1], state[0])

    def correct(self, state, latent):
        return state[0], latent


def fit(dataset, part, share=1.0, predictor=None):
    config, predictor = shipped("goal", columns=["cube"], width=64, steps=600, batch=256), predictor or Halfway(share)
    data = FitData(dataset, validation=0.2, seed=0, device=torch.device("cpu"))
    return fit_state_readout(data, predictor, 2, part, config)


@pytest.fixture(scope="module")
def readout(dataset):
    return fit(dataset, goal_part(dataset, ["cube"]))


def test_a_readout_reads_the_part_and_knows_its_error(dataset, readout):
    held_out = slice(1600, 2000)
    read = readout(torch.from_numpy(dataset.column("latent")[held_out])).numpy()
    error = np.sqrt(np.square(read - dataset.column("cube")[held_out]).mean(0))
    np.testing.assert_allclose(readout.error.numpy(), error, rtol=1e-4)
    assert (error < 0.25 * dataset.column("cube").std(0)).all()  # units differ tenfold


def test_a_readout_knows_the_error_of_predictions_two_rows_ahead(dataset, readout):
    # of the truth: that of reading it, but for each episode's first two rows
    np.testing.assert_allclose(readout.prediction_error.numpy(), readout.error.numpy(), rtol=0.1)
    halfway = fit(dataset, goal_part(dataset, ["cube"]), 0.5)
    column, cube = torch.from_numpy(dataset.column("latent")), dataset.column("cube")
    rows = np.concatenate([np.arange(start, start + 98) for start in range(1600, 2000, 100)])
    read = halfway((column[rows] + column[rows + 2]) / 2).numpy()
    expected = np.sqrt(np.square(read - cube[rows + 2]).mean(0))
    np.testing.assert_allclose(halfway.prediction_error.numpy(), expected, rtol=1e-4)
    assert (expected > 2 * readout.error.numpy()).all()


def test_predictions_rest_on_the_context_of_the_predictor(dataset):
    looking = fit(dataset, goal_part(dataset, ["cube"]), predictor=Looking(6))
    column, cube = torch.from_numpy(dataset.column("latent")), dataset.column("cube")
    before = np.concatenate([np.arange(start, start + 96) for start in range(1600, 2000, 100)])
    expected = np.sqrt(np.square(looking(column[before]).numpy() - cube[before + 4]).mean(0))
    np.testing.assert_allclose(looking.prediction_error.numpy(), expected, rtol=1e-4)


def test_a_part_that_the_latent_holds_as_it_is_is_read_without_error(dataset):
    """Even where a number is repeated and another is constant."""
    latent = np.concatenate([dataset.column("cube")] * 2 + [np.ones((2000, 1), np.float32)], 1)
    held = Trajectories(
        dataset.path, dict(dataset.columns) | {"latent": latent, "action": latent}, dataset.ep_len, dataset.ep_offset
    )
    assert (fit(held, goal_part(held, ["cube"])).error < 1e-4 * torch.tensor(dataset.column("cube").std(0))).all()


def test_a_readout_does_not_learn_from_held_out_episodes(dataset, readout):
    part = goal_part(dataset, ["cube"])[:]
    part[1600:] = 1e3
    again = fit(dataset, part)
    assert torch.equal(again.mean, readout.mean)
    assert torch.equal(again.net[0].weight, readout.net[0].weight)
    assert again.error.min() > 100


def test_a_readout_is_saved_whole(readout, tmp_path):
    readout.save(tmp_path / "readout.safetensors")
    loaded = StateReadout.load(tmp_path / "readout.safetensors")
    latent = random(5, 6)
    assert torch.equal(loaded(latent), readout(latent))
    assert torch.equal(loaded.error, readout.error)
