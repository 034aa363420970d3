import copy

import pytest
import torch
from level_tools import LATENT, build, composed
from torch import nn

from hiwm.config import load_config
from hiwm.hierarchy import LevelSpec
from hiwm.levels.clip import Clip
from hiwm.levels.distance import distance
from hiwm.levels.encoders.beside_inputs import BesideInputsEncoder
from hiwm.levels.encoders.mlp import MLPEncoder
from hiwm.levels.networks import PositionalEncoding, mlp
from hiwm.levels.predictors.ensemble import EnsemblePredictor
from hiwm.levels.predictors.graph import GraphPredictor
from hiwm.levels.predictors.gru import GRUPredictor
from hiwm.levels.predictors.mlp import ResidualMLPPredictor
from hiwm.levels.predictors.transformer import TransformerPredictor
from hiwm.levels.predictors.via_inputs import ViaInputsPredictor
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


def via_inputs():
    torch.manual_seed(0)
    encoder = BesideInputsEncoder(inputs={"a": (2,), "b": (3,)}, dim=4, width=8)
    return encoder, ViaInputsPredictor(dim_latent=encoder.dim, dim_action=2, encoder=encoder, width=8)


def test_a_latent_that_holds_its_inputs_is_as_far_as_its_embedding():
    encoder, _ = via_inputs()
    inputs = {"a": torch.randn(6, 2), "b": torch.randn(6, 3)}
    latent = encoder(inputs)
    torch.testing.assert_close(encoder.read_inputs(latent), torch.cat([inputs["a"], inputs["b"]], -1))
    torch.testing.assert_close(encoder.rescale(latent), torch.cat([encoder.read_inputs(latent), latent[:, 5:]], -1))
    embedding = latent[:, encoder.dim_inputs :]
    torch.testing.assert_close(embedding, encoder.net(torch.cat([inputs["a"], inputs["b"]], -1)))
    torch.testing.assert_close(
        distance(latent[0], latent[1:], p=1), distance(embedding[0], embedding[1:], p=1), rtol=0, atol=0.03
    )


def test_predicted_inputs_are_embedded_again_and_alone_count_as_error():
    encoder, predictor = via_inputs()
    predictor.fit(torch.full((encoder.dim,), 0.002))  # inputs change by 2
    latent = encoder.embed(torch.randn(6, 5))
    predicted = predictor(latent, torch.randn(6, 2))
    torch.testing.assert_close(predicted, encoder.embed(encoder.read_inputs(predicted)))
    assert (encoder.read_inputs(predicted) - encoder.read_inputs(latent)).abs().min() > 1e-4
    target = predicted.clone()
    target[:, encoder.dim_inputs :] += 5
    assert predictor.error(predicted, target) == 0
    target[:, : encoder.dim_inputs] += 0.001  # the inputs by 1
    torch.testing.assert_close(predictor.error(predicted, target), torch.tensor(0.25))


def test_a_search_has_gradients_through_the_embedding_and_training_none():
    encoder, predictor = via_inputs()
    latent, action = encoder.embed(torch.randn(6, 5)).detach(), torch.randn(6, 2, requires_grad=True)

    (gradient,) = torch.autograd.grad(predictor.eval()(latent, action)[:, encoder.dim_inputs :].sum(), action)
    assert gradient.any()
    predicted = predictor.train()(latent, action)
    predicted.square().sum().backward()
    assert action.grad.any()
    assert all(x.grad is None for x in encoder.parameters())


def test_the_encoder_is_no_part_of_the_predictor():
    encoder, predictor = via_inputs()
    assert not {id(x) for x in encoder.parameters()} & {id(x) for x in predictor.parameters()}
    both = copy.deepcopy(nn.ModuleList([encoder, predictor]))
    latent, action = encoder.embed(torch.randn(6, 5)), torch.randn(6, 2)
    torch.testing.assert_close(both[1](latent, action), predictor(latent, action))
    with torch.no_grad():
        for parameter in both[0].parameters():
            parameter.zero_()
    assert not both[1](latent, action)[:, encoder.dim_inputs :].any()  # the copy embeds with the copied encoder


def test_a_level_trains_with_the_error_of_its_predictor(monkeypatch):
    level = build(composed("predictor=via_inputs"), LATENT)
    monkeypatch.setattr(type(level.predictor), "error", lambda *_: torch.tensor(7.0))
    output = level.output(Clip({"latent": torch.randn(3, 5, 5)}, torch.randn(3, 4, 2, 2), None))
    assert level.losses_of(output, None, torch.Generator())["prediction"] == 7


def test_an_inverse_model_sees_the_inputs_in_a_latent_at_their_own_scale():
    level = build(composed("predictor=via_inputs"), LATENT).eval()
    target = level.encode({"latent": torch.randn(4, 5)})
    other = target.clone()
    other[:, : level.encoder.dim_inputs] += 0.001  # inputs that differ by 1
    below, steps = torch.randn(4, 5), torch.ones(4)
    difference = level.infer_action(below, target, steps) - level.infer_action(below, other, steps)
    assert difference.abs().max() > 0.02


def test_an_ensemble_measures_the_error_of_its_members():
    encoder, _ = via_inputs()
    members = [ViaInputsPredictor(dim_latent=encoder.dim, dim_action=2, encoder=encoder, width=8) for _ in range(3)]
    ensemble = EnsemblePredictor(dim_latent=encoder.dim, members=members).eval()
    ensemble.fit(torch.full((encoder.dim,), 0.002))
    latent = encoder.embed(torch.randn(6, 5))
    target = latent.clone()
    target[:, : encoder.dim_inputs] += 0.001
    torch.testing.assert_close(ensemble.error(latent, target), torch.tensor(0.25))


def test_prediction_via_the_inputs_needs_an_encoder_that_keeps_them():
    overrides = ["predictor@levels.level1.predictor=via_inputs"]
    with pytest.raises(ValueError, match=r"level1.predictor: .*MLPEncoder keeps none; expected encoder=beside_inputs"):
        LevelSpec(load_config(overrides).levels["level1"], 3, {"latent": (5,)}, 2, "0").build(key="level1")


def test_the_positional_encoding_tells_near_inputs_apart():
    encoding = PositionalEncoding(2, frequencies=3)
    x = torch.tensor([[0.5, -1.0]])
    phase = torch.tensor([[0.5, 1.0, 2.0, -1.0, -2.0, -4.0]])
    torch.testing.assert_close(encoding(x), torch.cat([x, phase.sin(), phase.cos()], -1))
    assert encoding.dim == 14
    first = PositionalEncoding(3, frequencies=2, encoded=1)
    x = torch.tensor([[0.3, -0.7, 9.0]])
    phase = torch.tensor([[0.3, 0.6]])
    torch.testing.assert_close(first(x), torch.cat([x, phase.sin(), phase.cos()], -1))
    assert first.dim == 7
    for wrong in (0, 3):
        with pytest.raises(ValueError, match=f"encoded is {wrong}; expected a number in .1, 2"):
            mlp(2, 8, 1, 1, frequencies=1, encoded=wrong)
    with pytest.raises(ValueError, match="encoded is 1 but frequencies is 0"):
        mlp(2, 8, 1, 1, encoded=1)
    inputs = {"latent": (5,)}
    encoder = BesideInputsEncoder(inputs=inputs, dim=4, width=8, frequencies=2, encoded=1)
    sizes = {"dim_latent": 9, "dim_action": 2, "width": 8, "frequencies": 2, "encoded": 1}
    parts = [
        MLPEncoder(inputs=inputs, dim=4, width=8, frequencies=2, encoded=1),
        encoder,
        ResidualMLPPredictor(**sizes),
    ]
    parts.append(ViaInputsPredictor(**sizes, encoder=encoder))
    assert [part.net[0].encoded for part in parts] == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="frequencies is -1"):
        mlp(2, 8, 1, 1, frequencies=-1)
