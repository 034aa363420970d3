import copy

import pytest
import torch
from level_tools import LATENT, build, composed

from hiwm.levels.predictors.ensemble import EnsemblePredictor
from hiwm.levels.predictors.graph import GraphPredictor
from hiwm.levels.predictors.gru import GRUPredictor
from hiwm.levels.predictors.mlp import ResidualMLPPredictor
from hiwm.levels.predictors.transformer import TransformerPredictor
from hiwm.open_loop import unroll


@pytest.mark.parametrize("kind", [ResidualMLPPredictor, GRUPredictor, TransformerPredictor, GraphPredictor])
def test_an_ensemble_is_the_mean_of_members_that_differ(kind):
    torch.manual_seed(0)
    sizes = {"dim_latent": 6, "dim_action": 2, "width": 8} | ({"entities": 3} if kind is GraphPredictor else {})
    members = [kind(**sizes) for _ in range(5)]
    for parameter in (p for m in members for p in m.parameters()):
        torch.nn.init.normal_(parameter)  # a transformer's gates begin at 0
    ensemble = EnsemblePredictor(dim_latent=6, members=copy.deepcopy(members)).eval()
    change = torch.rand(6)
    for predictor in (*members, ensemble):
        predictor.fit(change)
    latents, actions = torch.randn(7, 3, 6), torch.randn(7, 3, 2)
    own = torch.stack([member.rollout(latents[:, 0], actions) for member in members])
    assert len(own) == ensemble.passes == 5
    torch.testing.assert_close(ensemble.rollout(latents[:, 0], actions), own.mean(0))
    _, found, variance = unroll(
        ensemble, latents[:, 0], ensemble.start(latents[:, 0]), lambda h, _: actions[:, h], actions.shape[1]
    )
    assert torch.equal(found, ensemble.rollout(latents[:, 0], actions))
    torch.testing.assert_close(variance, own.var(0), rtol=1e-4, atol=1e-5)
    carried = ensemble.remember(latents, actions[:, :2])
    remembered = torch.stack([m.rollout_from(m.remember(latents, actions[:, :2]), actions) for m in members])
    torch.testing.assert_close(ensemble.rollout_from(carried, actions), remembered.mean(0))
    ensemble.train()  # each row trains one member
    rolled = ensemble.rollout(latents[:, 0], actions)
    for row in range(7):
        torch.testing.assert_close(rolled[row], own[row % 5, row])
    rolled[3].sum().backward()
    for weight in ensemble.weights.values():
        of_member = weight.grad.flatten(1).abs().sum(1)
        assert not of_member[[0, 1, 2, 4]].any()
    assert any(weight.grad[3].any() for weight in ensemble.weights.values())


def test_an_ensemble_has_members_of_one_kind():
    mixed = [ResidualMLPPredictor(dim_latent=4, dim_action=2), GRUPredictor(dim_latent=4, dim_action=2)]
    for members in (mixed, []):
        with pytest.raises(ValueError, match="expected at least one, all of the same class"):
            EnsemblePredictor(dim_latent=4, members=members)


@pytest.mark.parametrize("predictor", ["mlp", "gru", "transformer"])
def test_predictions_rest_on_the_observed_latents_of_the_context(predictor):
    level = build(composed(f"predictor={predictor}"), LATENT).eval()
    context = level.predictor.context
    assert (context > 1) == (predictor != "mlp")
    for parameter in level.predictor.parameters():  # adaLN-zero begins with gates of zero
        torch.nn.init.normal_(parameter, std=0.3)
    latents, actions = torch.randn(5, 7, level.encoder.dim), torch.randn(5, 6, level.action_encoder.dim)
    predicted = level.predictor.rollout_in_context(latents, actions)
    carried = level.predictor.remember(latents[:, :context], actions[:, : context - 1])
    torch.testing.assert_close(
        predicted[:, context - 1 :], level.predictor.rollout_from(carried, actions[:, context - 1 :])
    )
    torch.testing.assert_close(predicted[:, 0], level.predict(latents[:, 0], actions[:, 0]))

    def changed_by(step):
        other = latents.clone()
        other[:, step] += 1
        return [not torch.equal(a, b) for a, b in zip(
            predicted.unbind(1), level.predictor.rollout_in_context(other, actions).unbind(1), strict=True)]  # fmt: skip

    for step in range(context):
        assert changed_by(step)[step:][0]  # the prediction that follows it
    assert not any(changed_by(context))
