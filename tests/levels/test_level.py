import copy
import functools

import pytest
import torch

from hiwm.config import load_config
from hiwm.hierarchy import LevelSpec
from hiwm.levels.action_encoders.raw import RawActionEncoder
from hiwm.levels.clip import Clip, Pairs
from hiwm.levels.inverse import InverseModel
from hiwm.levels.predictors.ensemble import EnsemblePredictor
from hiwm.levels.predictors.graph import GraphPredictor
from hiwm.levels.predictors.gru import GRUPredictor
from hiwm.levels.predictors.mlp import ResidualMLPPredictor
from hiwm.levels.predictors.transformer import TransformerPredictor
from hiwm.levels.standardize import Standardize
from hiwm.open_loop import unroll

LATENT, STATE = {"latent": (5,)}, {"position": (2,), "pose": (2, 3)}
IMAGE, OBJECTS = {"pixels": (16, 16, 3)}, {"objects": (3, 4)}
DIM_BELOW = 2
# every choice of every group of configs/ -> overrides, level, inputs, stride
CASES = {
    "level=state": ([], 0, STATE, 1),
    "level=abstract": ([], 1, LATENT, 3),
    "level=pixels": (["level@levels.level0=pixels"], 0, IMAGE, 3),
    "pixels and proprioception": (["level@levels.level0=pixels"], 0, IMAGE | {"joints": (4,)}, 1),
    "encoder=identity": (["encoder@levels.level1.encoder=identity"], 1, LATENT, 3),
    "encoder=mlp": (["encoder@levels.level0.encoder=mlp"], 0, STATE, 1),
    "encoder.skip=true": (["encoder@levels.level0.encoder=mlp", "+levels.level0.encoder.skip=true"], 0, STATE, 1),
    "encoder=mlp16": (["encoder@levels.level1.encoder=mlp16"], 1, LATENT, 3),
    "encoder=conv": (["encoder@levels.level0.encoder=conv"], 0, IMAGE, 1),
    "encoder=vit": (
        ["encoder@levels.level0.encoder=vit", "levels.level0.encoder.depth=2", "levels.level0.encoder.width=24"],
        0, IMAGE, 1,
    ),
    "encoder=vit_patches": (
        ["encoder@levels.level0.encoder=vit_patches", "levels.level0.encoder.depth=2", "levels.level0.encoder.width=24"],
        0, IMAGE, 1,
    ),
    "encoder=graph": (["encoder@levels.level0.encoder=graph"], 0, OBJECTS, 1),
    "encoder=graph, inverse.entities=5": (
        ["encoder@levels.level1.encoder=graph", "levels.level1.encoder.entities=5", "+levels.level1.inverse.entities=5"],
        1, LATENT, 3,
    ),
    "predictor=graph": (
        ["encoder@levels.level0.encoder=graph", "predictor@levels.level0.predictor=graph", "levels.level0.predictor.entities=3"],
        0, OBJECTS, 1,
    ),
}  # fmt: skip
for group, names in {
    "action_encoder": ("raw", "mlp", "mean", "transformer"),
    "predictor": ("mlp", "gru", "transformer", "ensemble"),
}.items():
    for name in names:
        CASES[f"{group}={name}"] = ([f"{group}@levels.level1.{group}={name}"], 1, LATENT, 3)
for name in (
    "none",
    "sigreg",
    "sigreg_latent",
    "sigreg_straight",
    "vicreg",
    "barlow_twins",
    "info_nce",
    "ema",
    "inverse_dynamics",
):
    CASES[f"regularizer={name}"] = ([f"regularizer@levels.level1={name}"], 1, LATENT, 3)
CASES["regularizer=pixels"] = (["level@levels.level0=pixels", "regularizer@levels.level0=pixels"], 0, IMAGE, 1)
for name in ("none", "sigreg"):
    CASES[f"macro={name}"] = ([f"macro@levels.level1={name}"], 1, LATENT, 3)
CASES["conditional=false"] = (["levels.level1.action_encoder.conditional=false"], 1, LATENT, 3)


@functools.cache  # composing takes longer than the tests
def composed(name):
    overrides, k, _, _ = CASES[name]
    return load_config(overrides).levels[f"level{k}"]


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


def build(config, inputs, stride=2):
    torch.manual_seed(0)
    level = LevelSpec(config, stride, inputs, DIM_BELOW, "0").build()
    with torch.no_grad():
        for parameter in level.parameters():  # away from initial zeros, which hide dependences
            parameter.add_(0.05 * torch.randn_like(parameter))
    return level


@pytest.fixture
def level(case):
    """In eval mode: batches have no statistics."""
    return build(*case).eval()


def draw(inputs, *leading):
    return {name: torch.randn(*leading, *shape) for name, shape in inputs.items()}


def make_clip(level, inputs, batch=6):
    torch.manual_seed(1)
    pairs = None
    if level.inverse is not None:
        steps = torch.randint(1, 9, (batch,))
        pairs = Pairs(draw(inputs, batch), torch.randn(batch, DIM_BELOW), draw(inputs, batch), steps)
    actions = torch.randn(batch, level.horizon, level.stride, DIM_BELOW)
    return Clip(draw(inputs, batch, level.horizon + 1), actions, pairs)


def losses_of(level, inputs):
    return level.train().losses(make_clip(level, inputs), torch.Generator().manual_seed(0))


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
        assert level.delegate(source, latent, torch.full(leading, 3)).shape == (*leading, DIM_BELOW)


def test_a_level_without_an_inverse_model_says_so():
    level = build(load_config(["level@levels.level0=pixels"]).levels["level0"], IMAGE)
    with pytest.raises(ValueError, match="no inverse model"):
        level.delegate(torch.zeros(2, 32), torch.zeros(2, 32), torch.ones(2))


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
    level.losses(clip, torch.Generator().manual_seed(0))["prediction"].backward()
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


@pytest.mark.parametrize("kind", [ResidualMLPPredictor, GRUPredictor, TransformerPredictor, GraphPredictor])
def test_an_ensemble_is_the_mean_of_members_that_differ(kind):
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


def test_objects_may_be_permuted():
    parts = load_config(CASES["predictor=graph"][0]).levels["level0"]
    level = build(parts, OBJECTS).eval()
    objects, order = draw(OBJECTS, 6), torch.tensor([2, 0, 1])
    latent = level.encode(objects).unflatten(-1, (3, -1))
    permuted = level.encode({"objects": objects["objects"][:, order]}).unflatten(-1, (3, -1))
    torch.testing.assert_close(permuted, latent[:, order])
    action = torch.randn(6, level.action_encoder.dim)
    after = level.predict(latent.flatten(1), action).unflatten(-1, (3, -1))
    torch.testing.assert_close(level.predict(permuted.flatten(1), action).unflatten(-1, (3, -1)), after[:, order])


def test_objects_of_a_flat_latent_may_be_permuted():
    parts = composed("encoder=graph, inverse.entities=5")
    level = build(parts, {"latent": (15,)}).eval()
    objects, order = torch.randn(6, 5, 3), torch.tensor([2, 0, 4, 1, 3])
    latent = level.encode({"latent": objects.flatten(1)}).unflatten(-1, (5, -1))
    torch.testing.assert_close(
        level.encode({"latent": objects[:, order].flatten(1)}).unflatten(-1, (5, -1)), latent[:, order]
    )


def test_objects_hear_of_one_another():
    level = build(composed("encoder=graph"), OBJECTS).eval()
    objects = draw(OBJECTS, 6)["objects"]
    moved = objects.clone()
    moved[:, 0] += 1
    before, after = (level.encode({"objects": o}).unflatten(-1, (3, -1)) for o in (objects, moved))
    assert not torch.allclose(before[:, 1], after[:, 1], atol=1e-3)


def test_an_inverse_model_reads_offsets_between_objects():
    sizes = {"dim_target": 1, "dim_action": 1, "reach": 1, "width": 16, "depth": 1}
    plain, relational = (InverseModel(dim_source=6, entities=n, **sizes) for n in (None, 2))
    assert relational.net[0].in_features > plain.net[0].in_features
    for inverse, changes in ((plain, False), (relational, True)):
        torch.nn.init.zeros_(inverse.net[0].weight[:, :6])
        source, other = torch.randn(2, 4, 6)
        asked = (torch.zeros(4, 1), torch.ones(4))
        assert torch.allclose(inverse(source, *asked), inverse(other, *asked)) != changes
    with pytest.raises(ValueError, match=r"inverse\.entities is 4; expected a divisor of the size of the source, 6"):
        InverseModel(dim_source=6, entities=4, **sizes)


def test_macro_actions_see_what_they_should():
    latent, actions = torch.randn(4, 5), torch.randn(4, 3, DIM_BELOW)
    for name, sees_latent, sees_order in (("mlp", True, True), ("transformer", True, True), ("mean", False, False)):
        level = build(
            load_config([f"action_encoder@levels.level1.action_encoder={name}"]).levels["level1"], LATENT, 3
        ).eval()
        latent = torch.randn(4, level.encoder.dim)
        encoded = level.encode_actions(latent, actions)
        assert torch.allclose(level.encode_actions(latent + 1, actions), encoded, atol=1e-5) != sees_latent
        assert torch.allclose(level.encode_actions(latent, actions.flip(1)), encoded, atol=1e-5) != sees_order
    level = build(load_config(CASES["conditional=false"][0]).levels["level1"], LATENT, 3)
    assert torch.equal(level.encode_actions(latent, actions), level.encode_actions(latent + 1, actions))


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


def test_delegate_standardises_the_latent_below():
    config = load_config([]).levels["level1"]
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
    encoder = RawActionEncoder(dim_below=2, stride=3)
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
    standardize = Standardize({"state": (3,), "pixels": (2, 2, 3)}, 1e-3)
    standardize.fit({k: v.float().mean(0) for k, v in data.items()}, {k: v.float().std(0) for k, v in data.items()})
    for name, value in standardize(data).items():
        assert value.dtype == torch.float32
        assert value.shape == data[name].shape
        torch.testing.assert_close(value.mean(0), torch.zeros(value.shape[1:]), atol=1e-4, rtol=0)
        torch.testing.assert_close(value.std(0), torch.ones(value.shape[1:]), atol=1e-4, rtol=0)


def test_objects_share_their_mean_and_deviation():
    objects = torch.randn(500, 3, 2) + torch.tensor([[5.0, 1.0], [5.0, 2.0], [8.0, 3.0]])
    standardize = Standardize({"objects": (3, 2)}, 1e-3)
    standardize.fit({"objects": objects.mean(0)}, {"objects": objects.std(0)})
    value = standardize({"objects": objects})["objects"]
    torch.testing.assert_close(value.mean((0, 1)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(value.std((0, 1)), torch.ones(2), atol=1e-2, rtol=0)
    offset = (objects[:, 0] - objects[:, 1]) / objects.std((0, 1))
    torch.testing.assert_close(value[:, 0] - value[:, 1], offset, atol=1e-2, rtol=1e-2)


def test_standardize_survives_constant_columns():
    data = torch.tensor([[7.0, 1.0], [7.0, 3.0]])
    standardize = Standardize({"state": (2,)}, 1e-3)
    standardize.fit({"state": data.mean(0)}, {"state": data.std(0)})
    assert torch.equal(standardize({"state": data})["state"][:, 0], torch.zeros(2))
    unseen = standardize({"state": torch.tensor([7.5, 2.0])})["state"]
    assert unseen[0].item() == pytest.approx(0.5 / standardize.min_std)


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
