import copy

import pytest
import torch
from level_tools import CASES, DIM_BELOW, IMAGE, LATENT, OBJECTS, STATE, build, composed, draw

from hiwm.config import load_config
from hiwm.hierarchy import LevelSpec
from hiwm.levels.clip import Clip, Pairs
from hiwm.levels.predictors.ensemble import EnsemblePredictor
from hiwm.levels.predictors.gru import GRUPredictor
from hiwm.levels.predictors.transformer import TransformerPredictor


@pytest.fixture(params=CASES)
def case(request):
    """Parts, inputs, stride."""
    return copy.deepcopy(composed(request.param)), *CASES[request.param][2:]


@pytest.fixture
def config(case):
    return case[0]


@pytest.fixture
def inputs(case):
    return case[1]


@pytest.fixture
def level(case):
    """In eval mode: batches have no statistics."""
    return build(*case).eval()


def make_clip(level, inputs, batch=6):
    torch.manual_seed(1)
    pairs = None
    if level.inverse is not None:
        steps = torch.randint(1, 9, (batch,))
        pairs = Pairs(draw(inputs, batch), torch.randn(batch, DIM_BELOW), draw(inputs, batch), steps)
    actions = torch.randn(batch, level.horizon, level.stride, DIM_BELOW)
    return Clip(draw(inputs, batch, level.horizon + 1), actions, pairs)


def losses_of(level, inputs):
    return level.train()(make_clip(level, inputs), torch.Generator().manual_seed(0))


def gradient_norm(part):
    return sum(p.grad.norm().item() for p in part.parameters() if p.grad is not None)


def test_every_choice_of_the_configs_is_here():
    import tiny

    for group in ("level", "encoder", "action_encoder", "predictor", "regularizer", "macro"):
        for path in (tiny.ROOT / "configs" / group).glob("*.yaml"):
            assert f"{group}={path.stem}" in CASES


@pytest.mark.parametrize("leading", [(), (4,), (4, 3)], ids=str)
def test_shapes(level, inputs, leading):
    latent = level.encode(draw(inputs, *leading))
    assert latent.shape == (*leading, level.encoder.dim)
    action = level.encode_actions(latent, torch.randn(*leading, level.stride, DIM_BELOW))
    assert action.shape == (*leading, level.action_encoder.dim)
    assert level.predict(latent, action).shape == latent.shape
    if level.inverse is not None:
        source = torch.randn(*leading, 5) if level.reads_latent else latent
        assert level.infer_action(source, latent, torch.full(leading, 3)).shape == (*leading, DIM_BELOW)


def test_elements_of_a_batch_do_not_see_each_other(level, inputs):
    observations = draw(inputs, 4)
    chunks = torch.randn(4, level.stride, DIM_BELOW)
    latent = level.encode(observations)
    action = level.encode_actions(latent, chunks)
    alone = level.encode({name: value[2] for name, value in observations.items()})
    near = {"rtol": 1e-3, "atol": 2e-2 if "pixels" in inputs else 1e-5}  # half precision rounds by the batch
    torch.testing.assert_close(alone, latent[2], **near)
    torch.testing.assert_close(
        level.predict(latent[2], level.encode_actions(latent[2], chunks[2])), level.predict(latent, action)[2]
    )


def test_rollout_repeats_predict_until_memory_tells(level, inputs):
    latent = level.encode(draw(inputs, 4))
    actions = torch.randn(4, 5, level.action_encoder.dim)
    rolled = level.rollout(latent, actions)
    assert rolled.shape == (4, 5, level.encoder.dim)
    torch.testing.assert_close(rolled[:, 0], level.predict(latent, actions[:, 0]))
    remembers = isinstance(level.predictor, (GRUPredictor, TransformerPredictor, EnsemblePredictor))
    if not remembers:
        for i in range(5):
            latent = level.predict(latent, actions[:, i])
            torch.testing.assert_close(rolled[:, i], latent)
    # the future does not reach back
    changed = actions.clone()
    changed[:, 3] += 1
    again = level.rollout(level.encode(draw(inputs, 4)) * 0 + latent, actions)
    altered = level.rollout(level.encode(draw(inputs, 4)) * 0 + latent, changed)
    torch.testing.assert_close(altered[:, :3], again[:, :3])
    assert not torch.allclose(altered[:, 3], again[:, 3])


def test_losses_are_finite_scalars_named_as_coefs(level, inputs, config):
    losses = losses_of(level, inputs)
    assert set(losses) == set(config["loss_weights"])
    for name, loss in losses.items():
        assert loss.shape == (), name
        assert torch.isfinite(loss), name
        assert loss > 0, name


def test_total_is_the_weighted_sum(config, inputs):
    config = copy.deepcopy(config)
    config["loss_weights"] = {name: 2.0**i + 0.5 for i, name in enumerate(config["loss_weights"])}
    level = build(config, inputs)
    losses = losses_of(level, inputs)
    expected = sum(config["loss_weights"][name] * loss.item() for name, loss in losses.items())
    assert level.total(losses).item() == pytest.approx(expected, rel=1e-5)


def test_prediction_trains_everything_but_the_inverse_model(level, inputs):
    losses_of(level, inputs)["prediction"].backward()
    for part in (level.encoder, level.action_encoder, level.predictor):
        assert gradient_norm(part) > 0 or not list(part.parameters())
    assert gradient_norm(level.predictor) > 0
    assert level.inverse is None or gradient_norm(level.inverse) == 0


def test_targets_have_a_gradient_unless_a_target_encoder_made_them(level, inputs):
    clip = make_clip(level, inputs)
    for value in clip.inputs.values():
        value.requires_grad_()
    level(clip, torch.Generator().manual_seed(0))["prediction"].backward()
    for value in clip.inputs.values():
        reached = value.grad.flatten(2).norm(dim=(0, 2))  # by time: the first is rolled out, the others are targets
        assert reached[0] > 0
        assert (reached[1:] > 0).all() == (level.target is None)


def test_a_target_encoder_follows_the_encoder():
    level = build(load_config(["regularizer@levels.level1=ema"]).levels["level1"], LATENT)
    before = [p.clone() for p in level.target.copy.parameters()]
    with torch.no_grad():
        for p in level.encoder.parameters():
            p.add_(1)
    level.after_step()
    for mine, old, theirs in zip(level.target.copy.parameters(), before, level.encoder.parameters(), strict=True):
        torch.testing.assert_close(mine, 0.99 * old + 0.01 * theirs)
        assert not mine.requires_grad


def test_inverse_trains_the_inverse_model_only(level, inputs):
    if level.inverse is None:
        pytest.skip("no inverse model")
    losses_of(level, inputs)["inverse"].backward()
    assert gradient_norm(level.inverse) > 0
    for part in (level.encoder, level.action_encoder, level.predictor):
        assert gradient_norm(part) == 0


@pytest.mark.parametrize("change", ["missing", "extra", "misspelt"])
def test_wrong_coefs_are_refused_by_name(config, inputs, change):
    config = copy.deepcopy(config)
    if change != "extra":
        del config["loss_weights"]["prediction"]
    if change != "missing":
        config["loss_weights"]["predicton"] = 1.0
    with pytest.raises(ValueError, match="prediction" if change == "missing" else "predicton"):
        LevelSpec(config, 1, inputs, DIM_BELOW, "0").build()


def test_a_negative_weight_is_refused_by_name(config, inputs):
    config = {**config, "loss_weights": {**config["loss_weights"], "prediction": -1.0}}
    with pytest.raises(ValueError, match=r"loss_weights.prediction is -1.0; expected a number in \[0, inf\)"):
        LevelSpec(config, 1, inputs, DIM_BELOW, "0").build()


@pytest.mark.parametrize(
    ("overrides", "inputs", "message"),
    [
        (["level@levels.level0=pixels"], STATE, "at least one image"),
        (["encoder@levels.level0.encoder=vit"], STATE, "one image"),
        (["regularizer@levels.level0=pixels"], STATE, "exactly one image"),
        (["encoder@levels.level0.encoder=vit", "levels.level0.encoder.patch=7"], IMAGE, "patch is 7"),
        (["encoder@levels.level0.encoder=graph"], STATE, "objects, features"),
        (["encoder@levels.level0.encoder=graph", "levels.level0.encoder.entities=3"], STATE, "entities is 3; expected"),
        (
            ["encoder@levels.level0.encoder=graph", "levels.level0.encoder.entities=2"],
            OBJECTS,
            "entities is 2; expected",
        ),
        (["predictor@levels.level0.predictor=graph", "levels.level0.predictor.entities=3"], STATE, "entities is 3"),
        (
            ["predictor@levels.level0.predictor=transformer", "levels.level0.predictor.heads=5"],
            STATE,
            "multiple of heads",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(overrides, inputs, message):
    with pytest.raises(ValueError, match=message):
        build(load_config(overrides).levels["level0"], inputs)


def test_fit_takes_the_size_of_one_step(level, inputs):
    clip = make_clip(level, inputs, batch=50)
    mean = {name: torch.full(shape, 0.3) for name, shape in inputs.items()}
    std = {name: torch.full(shape, 10.0) for name, shape in inputs.items()}  # above any min_std
    level.fit(clip, mean, std)
    with torch.no_grad():
        latent = level.encoder({name: (value - 0.3) / 10 for name, value in clip.inputs.items()})
    change = (latent[:, 1:] - latent[:, :-1]).flatten(0, 1)
    torch.testing.assert_close(level.predictor.scale, (change**2).mean(0) ** 0.5, rtol=0.02, atol=1e-5)
