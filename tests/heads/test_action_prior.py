from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from planning_tools import HIGH, LOW, points, start
from tiny import shipped

from hiwm.agent import load_agent
from hiwm.config import load_config
from hiwm.data.store import Trajectories
from hiwm.experiment import collect, train
from hiwm.heads.action_prior import ActionPrior, fit_action_prior
from hiwm.heads.optimize import FitData
from hiwm.planning.assemble import make_planner
from hiwm.planning.validate import check_config

PERIOD = 2


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    """The third number says which of two modes, near -2 and near 2, the one number of a macro-action is from."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(4000, 3)).astype(np.float32)
    side = np.sign(rng.normal(size=4000))
    latent[:, 2] = side * (1 + 0.1 * rng.normal(size=4000))
    known = rng.random(4000) < 0.5  # the other half leaves open which
    latent[~known, 2] = 0.0
    action = (2 * side + 0.2 * rng.normal(size=4000))[:, None].astype(np.float32)
    action = np.concatenate([action, rng.normal(size=(4000, 1)).astype(np.float32)], 1)
    columns = {"latent": latent, "action": action}
    return Trajectories(tmp_path_factory.mktemp("data"), columns, np.full(40, 100), np.arange(40) * 100)


def fit(latents):
    config = shipped("action_prior", levels=[1], width=64, depth=2, steps=1500, batch=256, learning_rate=3e-3)
    data = FitData(latents, validation=0.2, seed=0, device=torch.device("cpu"))
    return fit_action_prior(data, PERIOD, config)


@pytest.fixture(scope="module")
def prior(latents):
    return fit(latents)


def states(third, number=500):
    return torch.tensor([[0.0, 0.0, third]]).expand(number, -1)


def noise(number=500):
    return torch.randn(number, 2, generator=torch.Generator().manual_seed(7))


def test_noise_becomes_what_occurs_in_the_state(prior):
    for third in (-1.0, 1.0):
        made = prior(states(third), noise())
        assert ((made[:, 0] - 2 * third).abs() < 0.8).float().mean() > 0.9
        # what nothing depends on stays as it was drawn
        assert made[:, 1].std() == pytest.approx(1, abs=0.2)
    either = prior(states(0.0), noise())[:, 0]
    assert 0.35 < (either > 1).float().mean() < 0.65
    assert 0.35 < (either < -1).float().mean() < 0.65


def test_few_steps_keep_the_deviation():
    """Of N(0, 1) at both ends, whose exact flow moves a point y by (2t - 1) / (t^2 + (1 - t)^2) y and ends where it began."""

    class Exact(ActionPrior):
        def velocity(self, latent, point, time):
            return (2 * time - 1) / (time**2 + (1 - time) ** 2) * point

    exact = Exact(dim_latent=3, dim_action=2, width=8, depth=1)
    torch.testing.assert_close(exact(states(0.0), noise()), noise(), rtol=0.03, atol=0)


def test_it_knows_how_much_there_was_to_learn(latents):
    rng = np.random.default_rng(1)
    gaussian = rng.normal(size=(4000, 2)).astype(np.float32)
    signed = np.abs(gaussian) * [1, 0] * np.sign(latents.column("latent")[:, 2:]) + gaussian * [0, 1]
    signed[:, 0] += (latents.column("latent")[:, 2] == 0) * gaussian[:, 0]  # as a whole N(0, I) too
    for action, least, most in ((gaussian, 0.96, 1.06), (signed.astype(np.float32), 0.8, 0.94)):
        columns = {"latent": latents.column("latent"), "action": action}
        assert least < fit(Trajectories(latents.path, columns, latents.ep_len, latents.ep_offset)).relative_loss < most
    lengths = np.array([100] * 32 + [PERIOD] * 8)  # held-out episodes too short to tell
    short = Trajectories(latents.path, latents.columns, lengths, np.cumsum(lengths) - lengths)
    assert fit(short).relative_loss.isnan()


def test_a_prior_does_not_learn_from_held_out_episodes_nor_from_their_ends(latents, prior):
    action = latents.column("action").copy()
    action[3200:] = 99.0
    action[np.arange(100, 4001, 100)[:, None] - [1, 2]] = -99.0  # rows too near an end hold no action
    other = Trajectories(latents.path, {**latents.columns, "action": action}, latents.ep_len, latents.ep_offset)
    again = fit(other)
    for name, value in prior.state_dict().items():
        if name != "relative_loss":
            assert torch.equal(value, again.state_dict()[name]), name


def test_a_prior_is_saved_whole(prior, tmp_path):
    prior.save(tmp_path / "action_prior.safetensors")
    loaded = ActionPrior.load(tmp_path / "action_prior.safetensors")
    here = states(0.3)
    assert torch.equal(loaded(here, noise()), prior(here, noise()))
    assert torch.equal(loaded.relative_loss, prior.relative_loss)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    options = (
        "tracking=none", "action_prior.levels=[1,2]", "action_prior.steps=50", "action_prior.width=16", "action_prior.depth=1",
        "planner.graph=none", "planner.level2.proposal.center=flow",
    )  # fmt: skip
    config = load_config(tiny.overrides(root, *options))
    collect(config)
    train(config)
    return config


@pytest.fixture(scope="module")
def trained(config):
    return load_agent(config.folder / "hierarchy", allow=["tiny"])


def test_what_was_fitted_is_kept_until_its_settings_change(config, monkeypatch):
    fitted = []
    monkeypatch.setattr(
        "hiwm.fit_heads.fit_action_prior", lambda *a, **k: fitted.append(a[1]) or fit_action_prior(*a, **k)
    )
    train(config)
    assert not fitted
    train(config.changed({"action_prior": {"levels": [2]}}))  # another level is no other setting
    assert not fitted
    train(config.changed({"action_prior": {"steps": 3}}))
    zeroth, first, second = config.hierarchy.strides
    assert fitted == [first * zeroth, second * first * zeroth]
    train(config)
    assert len(fitted) == 2


def test_an_agent_searches_the_noise_of_its_prior(trained):
    trained.reset(points(3).numpy())
    trained.act(points(3, 1).numpy())
    top = trained.plan.levels[2]
    level, latent = trained.hierarchy.levels[2], trained.hierarchy.encode({"state": points(3, 1)})[2]
    # the plan holds macro-actions, not noise: they lead where it says
    here = latent
    for h in range(top.actions.shape[1]):
        here = level.predict(here, top.actions[:, h])
        torch.testing.assert_close(here, top.predicted[:, h])
    away = (top.predicted - top.target.unsqueeze(1)).square().sum(-1)
    torch.testing.assert_close(top.cost, away.amin(1))


def test_priors_cost_passes_but_no_predictor_calls(trained):
    def calls(**changes):
        agent = trained.with_planner(**changes)
        agent.reset(points(3).numpy())
        agent.act(points(3, 1).numpy())
        return agent.plan.predictor_calls, agent.plan.other_calls

    with_prior = calls()
    without = calls(level2={"proposal": {"center": "gaussian"}})
    assert with_prior[0] == without[0]
    search, model = trained.planner.strategies[2], trained.planner.models[2]
    searched = search.samples(model, trained.planner.budgets[2]) * search.solver.cost_in_rounds * 4 + 4
    assert with_prior[1] - without[1] == pytest.approx(ActionPrior.passes * searched)


def test_macro_actions_are_rolled_out_from_where_the_last_one_led(trained):
    latent, chosen = (
        trained.hierarchy.encode({"state": points(2)})[2],
        torch.randn(2, 3, 6)[..., : trained.heads.action_priors[2].flow[-1].out_features],
    )
    trained.reset(points(2).numpy())
    trained.act(points(2, 1).numpy())
    model = trained.planner.models[2]
    found = model.rollout(latent, model.memory(trained.planner.history, latent), chosen.unsqueeze(1), model.flow)
    taken = trained.heads.action_priors[2](found.latents[:, 0, 0], chosen[:, 1])
    torch.testing.assert_close(found.actions[:, 0, 1], taken)
    assert found.variance is None


def test_what_cannot_be_is_refused(trained, tmp_path):
    planner = trained.planner
    with pytest.raises(ValueError, match=r"planner.level2.proposal.center is flow but level 2 learns no action prior"):
        make_planner(trained.hierarchy, planner.config, (LOW, HIGH))
    flow = {"proposal": {"center": "flow"}}
    with pytest.raises(ValueError, match=r"planner.level0.proposal.center is flow; expected gaussian, .*"):
        check_config(planner.config.changed({"level0": flow, "level1": flow}), 3)
    with pytest.raises(
        ValueError, match=r"planner.level2.proposal.center is flow, but level 2 does not search; .* planner.graph none"
    ):
        check_config(planner.config.changed({"graph": "follow"}), 3)
    with pytest.raises(
        ValueError, match=r"action_prior.levels is \[1, 3\]; expected levels from 1 to 2, which have macro-actions"
    ):
        shipped("action_prior", levels=[1, 3]).check(3)
    with pytest.raises(ValueError, match=r"action_prior.levels is \[0\]; expected levels from 1 to 2"):
        train(load_config(tiny.overrides(tmp_path, "tracking=none", "action_prior.levels=[0]")))
    assert not (tmp_path / "levels").exists()
    assert start(planner, points(1))
