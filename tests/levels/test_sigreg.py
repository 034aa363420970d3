import numpy as np
import pytest
import torch
import two_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hiwm.levels.output import LevelOutput
from hiwm.levels.regularizers.sigreg import SIGReg


def features(latent, action):
    return LevelOutput({}, latent, action, latent[:, 1:], latent[:, 1:], action)


def gaussian(seed, batch=4000, steps=5, dim_latent=3, dim_action=2):
    generator = torch.Generator().manual_seed(seed)
    return features(
        torch.randn(batch, steps + 1, dim_latent, generator=generator),
        torch.randn(batch, steps, dim_action, generator=generator),
    )


def value(of, sample, seed=0, **kwargs):
    return SIGReg(of=of, **kwargs)(sample, torch.Generator().manual_seed(seed)).item()


def integrand(t):
    return (1 - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)


@pytest.mark.parametrize("of", ["latent", "action", "joint"])
@pytest.mark.parametrize(("num_knots", "bound"), [(7, 3.0), (17, 5.0)])
def test_point_mass_at_zero(of, num_knots, bound):
    from scipy.integrate import quad  # here, so that the spawned processes need not import it

    point = features(torch.zeros(4, 3, 2), torch.zeros(4, 2, 2))
    measured = value(of, point, num_knots=num_knots, bound=bound)
    knots = np.linspace(-bound, bound, 2 * num_knots - 1)
    assert measured == pytest.approx(np.trapezoid(integrand(knots), knots), rel=1e-5)
    assert measured == pytest.approx(quad(integrand, -bound, bound)[0], rel=0.03)


def test_point_mass_elsewhere_is_recomputed():
    rows = torch.tensor([[[1.5], [1.5]]])
    knots = np.linspace(-3, 3, 13)
    distance = np.abs(np.exp(1.5j * knots) - np.exp(-(knots**2) / 2)) ** 2 * np.exp(-(knots**2) / 2)
    # one dimension: the only directions are 1 and -1, which give the same
    assert value("latent", features(rows, rows[:, 1:])) == pytest.approx(np.trapezoid(distance, knots), rel=1e-5)


@pytest.mark.parametrize("of", ["latent", "action", "joint"])
def test_standard_gaussian_is_near_zero(of):
    assert 0 <= value(of, gaussian(0)) < 5e-4


@pytest.mark.parametrize("of", ["latent", "action", "joint"])
@pytest.mark.parametrize(("scale", "shift"), [(0.5, 0.0), (1.5, 0.0), (1.0, 0.5)])
def test_other_gaussians_give_more(of, scale, shift):
    sample = gaussian(0)
    other = features(sample.latent * scale + shift, sample.action * scale + shift)
    assert value(of, other) > 20 * value(of, sample)


def test_only_joint_sees_dependence_on_the_latent():
    sample = gaussian(0)
    dependent = features(sample.latent, sample.latent[:, :-1, :2])
    independent = value("joint", sample)
    assert value("latent", dependent) < 5e-4
    assert value("action", dependent) < 5e-4
    assert value("joint", dependent) > 20 * independent


def test_each_looks_at_its_own_rows():
    sample = gaussian(0)
    bad_latent = features(sample.latent * 3, sample.action)
    bad_action = features(sample.latent, sample.action * 3)
    assert value("action", bad_latent) == value("action", sample)
    assert value("latent", bad_action) == value("latent", sample)
    assert value("joint", bad_latent) > 0.01
    assert value("joint", bad_action) > 0.01


def test_value_follows_the_generator():
    sample = gaussian(0, batch=20)
    assert value("joint", sample, seed=3) == value("joint", sample, seed=3)
    assert value("joint", sample, seed=3) != value("joint", sample, seed=4)


def test_descent_makes_a_sample_gaussian():
    latent = (gaussian(0, batch=100, steps=1).latent * 0.2 + 1).requires_grad_()
    regularizer, generator = SIGReg(of="latent"), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([latent], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        regularizer(features(latent, latent[:, 1:]), generator).backward()
        optimizer.step()
    rows = latent.detach().flatten(0, 1)
    assert rows.mean(0).abs().max() < 0.15
    assert (torch.cov(rows.T) - torch.eye(3)).abs().max() < 0.25


def test_bad_of_is_refused():
    with pytest.raises(ValueError, match=r"'latents'.*latent, action, joint"):
        SIGReg(of="latents")


class Loss(nn.Module):
    """Encodes rows and regularises them, as a level does."""

    def __init__(self, of):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(4, 3)
        self.actions = nn.Linear(2, 2)
        self.regularizer = SIGReg(of=of)

    def forward(self, observations, actions, generator):
        return self.regularizer(features(self.encoder(observations), self.actions(actions)), generator)


def batch_of(rows):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(rows, 3, 4, generator=generator) + 1, torch.randn(rows, 2, 2, generator=generator)


def value_and_gradient(module, observations, actions):
    loss = module(observations, actions, torch.Generator().manual_seed(7))
    loss.backward()
    return loss.detach(), [p.grad for p in module.parameters()]


def save_results(rank, folder):
    share = slice(rank * 4, (rank + 1) * 4)
    for of in ("latent", "action", "joint"):
        module = DistributedDataParallel(Loss(of), find_unused_parameters=True)
        result = value_and_gradient(module, *(x[share] for x in batch_of(8)))
        torch.save(result, f"{folder}/{of}{rank}.pt")


def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    two_processes.run(save_results, tmp_path)
    for of in ("latent", "action", "joint"):
        whole, whole_gradients = value_and_gradient(Loss(of), *batch_of(8))
        assert max(g.abs().max() for g in whole_gradients if g is not None) > 1e-3
        for rank in range(2):
            loss, gradients = torch.load(tmp_path / f"{of}{rank}.pt")
            torch.testing.assert_close(loss, whole, atol=1e-6, rtol=0)
            for mine, theirs in zip(gradients, whole_gradients, strict=True):
                expected = torch.zeros_like(mine) if theirs is None and mine is not None else theirs
                torch.testing.assert_close(mine, expected, atol=1e-6, rtol=0)
