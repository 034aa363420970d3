import copy
from pathlib import Path

import pytest
import torch
import yaml

from hiwm.hierarchy import LevelSpec
from hiwm.levels.action_encoders.raw import RawActionEncoder
from hiwm.levels.clip import Clip, Pairs
from hiwm.levels.inverse import InverseModel
from hiwm.levels.standardize import Standardize

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "level").glob("*.yaml"))
INPUTS = {"latent": {"latent": (5,)}, "observation": {"position": (2,), "image": (2, 3)}}
DIM_BELOW = 2


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request):
    return yaml.safe_load(request.param.read_text())


@pytest.fixture(params=INPUTS)
def inputs(request):
    return INPUTS[request.param]


@pytest.fixture(params=[1, 3], ids=["stride1", "stride3"])
def level(request, config, inputs):
    torch.manual_seed(0)
    return LevelSpec(config, request.param, inputs, DIM_BELOW, "0").build()


def draw(inputs, *leading):
    return {name: torch.randn(*leading, *shape) for name, shape in inputs.items()}


def make_clip(level, inputs, batch=6):
    torch.manual_seed(1)
    pairs = Pairs(
        draw(inputs, batch), torch.randn(batch, DIM_BELOW), draw(inputs, batch), torch.randint(1, 9, (batch,))
    )
    actions = torch.randn(batch, level.horizon, level.stride, DIM_BELOW)
    return Clip(draw(inputs, batch, level.horizon + 1), actions, pairs)


def losses_of(level, inputs):
    return level.losses(make_clip(level, inputs), torch.Generator().manual_seed(0))


def gradient_norm(part):
    return sum(p.grad.norm().item() for p in part.parameters() if p.grad is not None)


def test_there_are_level_configs():
    assert {path.stem for path in CONFIGS} >= {"state", "abstract"}


@pytest.mark.parametrize("leading", [(), (4,), (4, 3)], ids=str)
def test_shapes(level, inputs, leading):
    latent = level.encode(draw(inputs, *leading))
    assert latent.shape == (*leading, level.encoder.dim)
    action = level.encode_actions(latent, torch.randn(*leading, level.stride, DIM_BELOW))
    assert action.shape == (*leading, level.action_encoder.dim)
    assert level.predict(latent, action).shape == latent.shape
    source = torch.randn(*leading, 5) if level.reads_latent else latent
    delegated = level.delegate(source, latent, torch.full(leading, 3))
    assert delegated.shape == (*leading, DIM_BELOW)


def test_elements_of_a_batch_do_not_see_each_other(level, inputs):
    observations = draw(inputs, 4)
    chunks = torch.randn(4, level.stride, DIM_BELOW)
    latent = level.encode(observations)
    action = level.encode_actions(latent, chunks)
    alone = level.encode({name: value[2] for name, value in observations.items()})
    torch.testing.assert_close(alone, latent[2])
    torch.testing.assert_close(
        level.predict(alone, level.encode_actions(alone, chunks[2])), level.predict(latent, action)[2]
    )


def test_rollout_is_repeated_predict(level, inputs):
    latent = level.encode(draw(inputs, 4))
    actions = torch.randn(4, 5, level.action_encoder.dim)
    rolled = level.rollout(latent, actions)
    assert rolled.shape == (4, 5, level.encoder.dim)
    for i in range(5):
        latent = level.predict(latent, actions[:, i])
        torch.testing.assert_close(rolled[:, i], latent)


def test_losses_are_finite_scalars_named_as_coefs(level, inputs, config):
    losses = losses_of(level, inputs)
    assert set(losses) == set(config["coefs"])
    for name, loss in losses.items():
        assert loss.shape == (), name
        assert torch.isfinite(loss), name
        assert loss > 0, name


def test_total_is_the_weighted_sum(config, inputs):
    config = copy.deepcopy(config)
    config["coefs"] = {name: 2.0**i + 0.5 for i, name in enumerate(config["coefs"])}
    level = LevelSpec(config, 2, inputs, DIM_BELOW, "0").build()
    losses = losses_of(level, inputs)
    expected = sum(config["coefs"][name] * loss.item() for name, loss in losses.items())
    assert level.total(losses).item() == pytest.approx(expected, rel=1e-5)


def test_prediction_trains_everything_but_the_inverse_model(level, inputs):
    losses_of(level, inputs)["prediction"].backward()
    for part in (level.encoder, level.action_encoder, level.predictor):
        assert gradient_norm(part) > 0 or not list(part.parameters())
    assert gradient_norm(level.predictor) > 0
    assert gradient_norm(level.inverse) == 0


def test_prediction_has_no_stop_gradient(level, inputs):
    clip = make_clip(level, inputs)
    for value in clip.inputs.values():
        value.requires_grad_()
    level.losses(clip, torch.Generator().manual_seed(0))["prediction"].backward()
    for value in clip.inputs.values():
        reached = value.grad.flatten(2).norm(dim=(0, 2))  # by time: the first is rolled out, the others are targets
        assert (reached > 0).all()


def test_inverse_trains_the_inverse_model_only(level, inputs):
    losses_of(level, inputs)["inverse"].backward()
    assert gradient_norm(level.inverse) > 0
    for part in (level.encoder, level.action_encoder, level.predictor):
        assert gradient_norm(part) == 0


@pytest.mark.parametrize("change", ["missing", "extra", "misspelt"])
def test_wrong_coefs_are_refused_by_name(config, inputs, change):
    config = copy.deepcopy(config)
    if change != "extra":
        del config["coefs"]["prediction"]
    if change != "missing":
        config["coefs"]["predicton"] = 1.0
    with pytest.raises(ValueError, match="prediction" if change == "missing" else "predicton"):
        LevelSpec(config, 1, inputs, DIM_BELOW, "0").build()


def test_fit_takes_the_size_of_one_step(level, inputs):
    clip = make_clip(level, inputs, batch=50)
    mean = {name: torch.full(shape, 0.3) for name, shape in inputs.items()}
    std = {name: torch.full(shape, 2.0) for name, shape in inputs.items()}
    level.fit(clip, mean, std)
    with torch.no_grad():
        latent = level.encoder({name: (value - 0.3) / 2 for name, value in clip.inputs.items()})
    change = (latent[:, 1:] - latent[:, :-1]).flatten(0, 1)
    torch.testing.assert_close(level.predictor.scale, (change**2).mean(0) ** 0.5)


def test_delegate_standardises_the_latent_below():
    config = yaml.safe_load((Path(__file__).parents[2] / "configs" / "level" / "abstract.yaml").read_text())
    level = LevelSpec(config, 2, {"latent": (5,)}, DIM_BELOW, "0").build()
    source, target, steps = torch.randn(4, 5), torch.randn(4, level.encoder.dim), torch.tensor([1, 2, 3, 4])
    before = level.delegate(source, target, steps)
    level.standardize.fit({"latent": torch.full((5,), 3.0)}, {"latent": torch.full((5,), 7.0)})
    torch.testing.assert_close(level.delegate(source * 7 + 3, target, steps), before, rtol=1e-4, atol=1e-5)


def test_inverse_reads_more_steps_than_reach_as_reach():
    model = InverseModel(dim_source=2, dim_target=2, dim_action=1, reach=4, width=8, depth=1)
    source, target = torch.randn(3, 2), torch.randn(3, 2)
    at = [model(source, target, torch.full((3,), steps)) for steps in (0, 1, 4, 9)]
    assert torch.equal(at[0], at[1])
    assert torch.equal(at[2], at[3])
    assert not torch.equal(at[1], at[2])


def test_inverse_reach_below_one_is_refused():
    with pytest.raises(ValueError, match=r"inverse\.reach is 0"):
        InverseModel(dim_source=2, dim_target=2, dim_action=1, reach=0)


@pytest.mark.parametrize("leading", [(), (4,), (4, 3)], ids=str)
def test_raw_action_encoder_decode_inverts_forward(leading):
    encoder = RawActionEncoder(dim_latent=7, dim_below=2, stride=3)
    actions = torch.randn(*leading, 3, 2)
    encoded = encoder(torch.randn(*leading, 7), actions)
    assert encoded.shape == (*leading, encoder.dim)
    assert torch.equal(encoder.decode(encoded), actions)


def test_standardize_gives_mean_0_and_deviation_1():
    torch.manual_seed(0)
    data = {
        "state": torch.randn(500, 3) * torch.tensor([0.1, 1.0, 30.0]) + torch.tensor([5.0, 0.0, -100.0]),
        "pixels": torch.randint(0, 256, (500, 2, 2, 3), dtype=torch.uint8),
    }
    standardize = Standardize({"state": (3,), "pixels": (2, 2, 3)})
    standardize.fit({k: v.float().mean(0) for k, v in data.items()}, {k: v.float().std(0) for k, v in data.items()})
    for name, value in standardize(data).items():
        assert value.dtype == torch.float32
        assert value.shape == data[name].shape
        torch.testing.assert_close(value.mean(0), torch.zeros(value.shape[1:]), atol=1e-4, rtol=0)
        torch.testing.assert_close(value.std(0), torch.ones(value.shape[1:]), atol=1e-4, rtol=0)


def test_standardize_survives_constant_columns():
    data = torch.tensor([[7.0, 1.0], [7.0, 3.0]])
    standardize = Standardize({"state": (2,)})
    standardize.fit({"state": data.mean(0)}, {"state": data.std(0)})
    assert torch.equal(standardize({"state": data})["state"][:, 0], torch.zeros(2))
    unseen = standardize({"state": torch.tensor([7.5, 2.0])})["state"]
    assert unseen[0].item() == pytest.approx(0.5 / standardize.floor)
