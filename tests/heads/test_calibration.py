from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from planning_tools import FLAT, HIGH, LOW, STEP, Linear, start

from hiwm.agent import load_agent
from hiwm.config import load_config
from hiwm.data.store import Trajectories
from hiwm.experiment import train
from hiwm.heads.calibration import (
    NOMINAL,
    Calibration,
    PredictionErrors,
    _quantiles,
    calibrate,
    calibrated_steps,
    fit_calibration,
)
from hiwm.heads.heads import Heads
from hiwm.hierarchy import Hierarchy, LevelSpec
from hiwm.levels.parts import Predictor
from hiwm.levels.predictors.ensemble import EnsemblePredictor
from hiwm.open_loop import unroll
from hiwm.planning.assemble import make_planner

MEMBERS, STEPS, DIM = 5, 3, 4
CEM = {"_target_": "hiwm.planning.solvers.cem.CEM", "iterations": 8}


def draw(number, factor, seed):
    """Truth and members are Gaussian about one mean; the standard deviation of the members differs from row to row, dimension, step."""
    rng = torch.Generator().manual_seed(seed)
    std = torch.exp(0.7 * torch.randn(number, STEPS, DIM, generator=rng)) * torch.arange(1, DIM + 1)
    members = std.unsqueeze(-1) * torch.randn(*std.shape, MEMBERS, generator=rng)
    truth = (factor - 1 / MEMBERS) ** 0.5 * std * torch.randn(std.shape, generator=rng)
    error, variance = (members.mean(-1) - truth).square().double(), members.var(-1).double()
    return [PredictionErrors(error[:, h], variance[:, h]) for h in range(STEPS)]


def test_a_known_scale_is_found_and_gaussian_errors_are_covered_as_often_as_they_should():
    found = calibrate(draw(20_000, 9.0, 0), draw(20_000, 9.0, 1), MEMBERS)
    nominal = torch.tensor(NOMINAL).expand(STEPS, -1)
    torch.testing.assert_close(found.scale, torch.full((STEPS,), 9.0), rtol=0.1, atol=0)
    torch.testing.assert_close(found.ratio, torch.ones(STEPS), rtol=0.15, atol=0)
    torch.testing.assert_close(found.scaled, nominal, rtol=0, atol=0.015)
    torch.testing.assert_close(found.conformal, nominal, rtol=0, atol=0.015)
    assert (found.raw < nominal - 0.2).all()  # a third of the width they need
    assert (found.spearman > 0.4).all()


def test_what_disagrees_without_being_wrong_has_no_rank_correlation():
    fitted, checked = draw(4000, 1.0, 0), draw(4000, 1.0, 1)
    shuffled = torch.randperm(4000, generator=torch.Generator().manual_seed(2))
    checked = [replace(step, error=step.error[shuffled]) for step in checked]
    assert calibrate(fitted, checked, MEMBERS).spearman.abs().max() < 0.06


def test_rare_jumps_that_nobody_foresees_do_not_decide_the_scale():
    def jump(steps):
        for step in steps:
            step.error[::200] += 1e5
        return steps

    found = calibrate(jump(draw(10_000, 9.0, 0)), jump(draw(10_000, 9.0, 1)), MEMBERS)
    torch.testing.assert_close(found.scale, torch.full((STEPS,), 9.0), rtol=0.1, atol=0)
    torch.testing.assert_close(found.scaled, torch.tensor(NOMINAL).expand(STEPS, -1), rtol=0, atol=0.02)
    assert (found.ratio > 2).all()  # but the ratio tells of them


def test_the_expected_error_is_that_of_the_most_uncertain_step_so_far():
    known = calibrate(draw(100, 1.0, 0), draw(100, 1.0, 1), MEMBERS)
    known = Calibration(**{**known.state_dict(), "scale": torch.tensor([1.0, 2.0, 4.0])})
    variance = torch.tensor([[[0.5, 0.5], [1.0, 1.0], [0.1, 0.1]]])
    assert known.expected_error(variance).tolist() == [[1.0, 4.0, 4.0]]
    assert known.expected_error(variance[:, :1]).tolist() == [[1.0]]


def test_a_saved_calibration_is_the_same(tmp_path):
    known = calibrate(draw(100, 1.0, 0), draw(100, 1.0, 1), MEMBERS)
    known.save(tmp_path / "calibration.safetensors")
    loaded = Calibration.load(tmp_path / "calibration.safetensors")
    assert all(torch.equal(getattr(loaded, name), value) for name, value in known.state_dict().items())


class Pushed(Predictor):
    """Knows where the first half of an action leads, to the right; of the second, which leads there too, it guesses a push."""

    def __init__(self, aside):
        super().__init__(2)
        self.aside = torch.nn.Parameter(torch.tensor(float(aside)))

    def forward(self, latent, action):
        right, new = action[..., 0], action[..., 1].clamp_min(0)
        return latent + torch.stack([STEP * (right + new), self.aside * new], -1)


def hierarchy_of(predictor):
    spec = LevelSpec(load_config([]).levels["level0"], 1, {"state": (2,)}, 2, "exact")
    level = spec.build()
    level.predictor = predictor
    return Hierarchy([level], [spec]).eval().requires_grad_(False)


def ensemble(*asides):
    return EnsemblePredictor(dim_latent=2, members=[Pushed(aside) for aside in asides])


def walked(episodes=12, steps=30, error=0.1, period=1):
    """Walks in the world of `Pushed`, in which the push is `error` to either side."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (episodes, steps, 2)).astype(np.float32)
    new = np.clip(action[..., 1], 0, None)
    pushes = error * new * rng.choice([-1, 1], action.shape[:2])
    moves = np.stack([STEP * (action[..., 0] + new), pushes], -1).astype(np.float32)
    latent = np.cumsum(moves, 1, dtype=np.float32) - moves
    length = np.full(episodes, steps)
    columns = {"latent": latent.reshape(-1, 2), "action": action.reshape(-1, 2)}
    return Trajectories(Path("walked"), columns, length, np.cumsum(length) - length)


def test_only_held_out_episodes_calibrate():
    """Twice the push in the half that was held out: twice the error, four times the scale."""
    level, known = hierarchy_of(ensemble(-0.05, 0.0, 0.05)).levels[0], walked()
    unlike = walked(error=0.2)
    half = known.num_steps // 2
    latent = np.concatenate([known.column("latent")[:half], unlike.column("latent")[half:]])
    mixed = replace(known, columns={**known.columns, "latent": latent})
    scales = [fit_calibration(level, data, period=1, validation=0.5).scale for data in (known, unlike, mixed)]
    assert torch.equal(scales[2], scales[1])
    assert (scales[1] > 2 * scales[0]).all()


def test_conformal_quantiles_count_the_new_score_too():
    scores = torch.arange(9.0).flip(0)
    # of 9 scores and a new one: 5, 8 and 9 of 10 are 50, 80 and 90 %; 95 % is more than 9 can promise, so the largest
    assert _quantiles(scores).tolist() == [4, 7, 8, 8]


def test_an_ensemble_is_calibrated_on_its_open_loop_errors():
    level = hierarchy_of(ensemble(-0.05, 0.0, 0.05)).levels[0]
    found = fit_calibration(level, walked(), period=1, validation=0.5)
    assert found is not None
    assert found.steps == calibrated_steps(level.predictor, walked(), 1, 0.5) == 20
    # one step ahead the members' variance is 0.05^2 a^2 and the squared error 0.1^2 a^2
    assert found.scale[0].item() == pytest.approx(4.0, rel=1e-3)
    assert (
        found.scale[1:] < found.scale[0]
    ).all()  # errors of independent signs add up less than the members' straight pushes
    assert fit_calibration(hierarchy_of(Linear(2)).levels[0], walked(), 1, 0.5) is None  # no ensemble
    assert fit_calibration(level, walked(), 30, 0.5) is None  # no episode holds a step
    assert fit_calibration(level, walked(), 1, 0.01) is None  # one held-out episode


def planner_of(predictor, calibration, **changes):
    level0 = {"horizon": 8, "action_repeat": 1, "replan": 8, **changes}
    config = FLAT.changed({"budget": 3000, "solver": CEM, "level0": level0})
    return make_planner(hierarchy_of(predictor), config, (LOW, HIGH), Heads(calibrations=[calibration]))


def test_the_penalty_avoids_what_was_never_seen():
    """The goal lies to the right, and either half of the action leads there; of the second the members know nothing."""
    predictor = ensemble(-0.2, 0.0, 0.2)
    known = fit_calibration(hierarchy_of(predictor).levels[0], walked(), 1, 0.5)
    here, goal = torch.full((6, 2), 0.2), torch.tensor([[0.4, 0.2]]).repeat(6, 1)
    errors = {}
    for weight in (0.0, 1.0):
        part = start(planner_of(predictor, known, disagreement_weight=weight), goal).plan({"state": here}).levels[0]
        state = predictor.start(here)
        _, _, variance = unroll(predictor, here, state, lambda h, _, chosen=part.actions: chosen[:, h], 8)
        away = (part.predicted - goal.unsqueeze(1)).square().sum(-1)
        counted = away + weight * known.expected_error(variance)
        # the cost is the least, over the horizon, of the distance and the expected error up to there
        torch.testing.assert_close(part.cost, counted.amin(1))
        torch.testing.assert_close(part.disagreement, variance.sum(-1))
        reached = counted.argmin(1, keepdim=True)
        assert away.gather(1, reached).max() < 0.05**2
        errors[weight] = known.expected_error(variance).gather(1, reached)
    assert errors[0.0].median() > 20 * errors[1.0].median()


def test_a_weight_of_none_changes_nothing_and_no_rollout_is_done_twice():
    predictor = ensemble(-0.2, 0.0, 0.2)
    known = fit_calibration(hierarchy_of(predictor).levels[0], walked(), 1, 0.5)
    here, goal = torch.full((2, 2), 0.2), torch.tensor([[0.4, 0.2]]).repeat(2, 1)
    plans = []
    for weight, calibration in (
        ({}, None),
        ({"disagreement_weight": 0.0}, known),
        ({"disagreement_weight": 1.0}, known),
    ):
        planner = start(planner_of(predictor, calibration, **weight), goal)
        (model,) = planner.models
        counted = Counted(predictor)
        model.predictor.predictor = counted
        plans.append(planner.plan({"state": here}))
        assert plans[-1].predictor_calls == counted.count / 2
    assert torch.equal(plans[0].action, plans[1].action)
    assert torch.equal(plans[0].levels[0].cost, plans[1].levels[0].cost)
    assert plans[1].predictor_calls == plans[2].predictor_calls


class Counted:
    """An ensemble that counts the predictions of its members."""

    def __init__(self, ensemble):
        self.ensemble, self.passes, self.count = ensemble, ensemble.passes, 0

    def remember(self, latents, actions):
        return self.ensemble.remember(latents, actions)

    def step_spread(self, state, action):
        self.count += len(action) * self.passes
        return self.ensemble.step_spread(state, action)


@pytest.mark.parametrize(
    ("predictor", "calibrated", "changes", "message"),
    [
        (Linear(2), False, {}, r"planner.level0.disagreement_weight is 0.3; expected 0, because the predictor of level 0, Linear, is not an"),
        (ensemble(-1, 1), False, {}, r"planner.level0.disagreement_weight is 0.3; expected 0, because the ensemble of level 0 is not"),
        (ensemble(-1, 1), True, {"horizon": 21}, r"planner.level0.horizon is 21; expected at most 20 with planner.level0.disagreement_weight"),
        (ensemble(-1, 1), True, {"strategy": "follow_inverse"}, r"planner.level0.disagreement_weight is 0.3; expected 0, because level 0 does"),
        (ensemble(-1, 1), True, {"disagreement_weight": -1.0}, r"planner.level0.disagreement_weight is -1.0; expected at least 0"),
    ],
)  # fmt: skip
def test_a_weight_that_means_nothing_is_refused(predictor, calibrated, changes, message):
    hierarchy = hierarchy_of(predictor)
    known = fit_calibration(hierarchy.levels[0], walked(), 1, 0.5) if calibrated else None
    level0 = {"action_repeat": 1, "disagreement_weight": 0.3, **changes}
    with pytest.raises(ValueError, match=message):
        make_planner(hierarchy, FLAT.changed({"level0": level0}), (LOW, HIGH), Heads(calibrations=[known]))


def test_a_level_without_an_entry_has_no_weight():
    assert load_config([]).planner.level(3).disagreement_weight == 0


# a top level cannot propose with an inverse model
TOP_SEARCH = "planner.level1.proposal={center: gaussian, std: 1}"


def experiment(tiny_run, root, *more):
    """Two levels on the data of the tiny run, the upper one with an ensemble."""
    kept = [line for line in tiny.overrides(root) if "level2" not in line and "level1.predictor" not in line]
    ensemble = ["predictor@levels.level1.predictor=ensemble", "~levels.level2", "tracking=none"]
    return load_config([*kept, f"dataset.path={tiny_run.config.dataset.path}", *ensemble, *more])


def test_training_calibrates_and_saves(tiny_run, tmp_path):
    config = experiment(tiny_run, tmp_path, "planner.graph=none", "planner.level1.disagreement_weight=0.5", TOP_SEARCH)
    train(config)
    agent = load_agent(config.folder / "hierarchy")
    assert agent.heads.calibrations[0] is None
    assert agent.heads.calibrations[1].steps == 20
    assert agent.heads.calibrations[1].scale.isfinite().all()
    agent.reset(np.full((2, 2), 0.8, np.float32))
    agent.act(np.full((2, 2), 0.2, np.float32))
    careful = agent.plan.levels[1]
    assert (careful.disagreement > 0).all()
    agent.save(tmp_path / "again")
    again = load_agent(tmp_path / "again").heads.calibrations[1]
    assert torch.equal(again.scaled, agent.heads.calibrations[1].scaled)
    assert len(agent.with_planner(num_levels=1, level0={"proposal": {"center": "gaussian"}}).planner.models) == 1


def test_training_does_not_begin_where_the_planner_would_refuse(tiny_run, tmp_path):
    with pytest.raises(ValueError, match=r"predictor of level 0, ResidualMLPPredictor, is not an ensemble"):
        train(experiment(tiny_run, tmp_path, "planner.level0.disagreement_weight=0.3"))
    with pytest.raises(
        ValueError, match=r"planner.level1.disagreement_weight is 0.3; expected 0, because level 1 does not search"
    ):
        train(experiment(tiny_run, tmp_path, "planner.level1.disagreement_weight=0.3"))  # it hands landmarks down
    changes = (
        "planner.graph=none", "planner.level1.disagreement_weight=0.3", "planner.level1.horizon=27", TOP_SEARCH,
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"planner.level1.horizon is 27; expected at most \d+ with planner.level1.disagreement_weight"
    ):
        train(experiment(tiny_run, tmp_path, *changes))
    assert not (tmp_path / "levels").exists()
