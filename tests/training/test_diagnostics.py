import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hiwm.levels.action_encoders.raw import RawActionEncoder
from hiwm.levels.clip import Clip, Pairs
from hiwm.levels.encoders.beside_inputs import BesideInputsEncoder
from hiwm.levels.encoders.identity import IdentityEncoder
from hiwm.levels.inverse import InverseModel
from hiwm.levels.level import Level
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Encoder, Predictor
from hiwm.levels.predictors.via_inputs import ViaInputsPredictor
from hiwm.training.diagnostics.copy_last import CopyLast, ratio_to_copy_last
from hiwm.training.diagnostics.episodes import Episodes, spectrum
from hiwm.training.diagnostics.rank import RankShare, effective_rank
from hiwm.training.diagnostics.runner import SHIPPED
from hiwm.training.diagnostics.state_probe import state_probe_r2
from hiwm.training.diagnostics.variance import WithinEpisode, _share

EPISODES, MOMENTS, DIM = 24, 32, 2
INPUTS = {"state": (DIM,), "background": (DIM,)}


class AddAction(Predictor):
    """The true dynamics of `world` when the latent is the position."""

    def __init__(self):
        super().__init__(DIM)

    def forward(self, latent, action):
        return latent + action


class Still(Predictor):
    def __init__(self):
        super().__init__(DIM)

    def forward(self, latent, action):
        return latent


class Constant(Encoder):
    dim = DIM

    def forward(self, inputs):
        return torch.ones_like(inputs["state"])


class Background(Encoder):
    dim = DIM

    def forward(self, inputs):
        return inputs["background"]


class Shrunk(Encoder):
    dim = DIM

    def forward(self, inputs):
        return inputs["state"] * 0.01


class OneOfMany(Encoder):
    dim = 16

    def forward(self, inputs):
        return inputs["state"][..., :1] * torch.ones(16)


def make_level(encoder, predictor):
    return Level(
        stride=1,
        horizon=MOMENTS - 1,
        inputs=INPUTS,
        min_std=0.001,
        encoder=encoder,
        action_encoder=RawActionEncoder(dim_below=DIM, stride=1),
        predictor=predictor,
        inverse=InverseModel(dim_source=encoder.dim, dim_target=encoder.dim, dim_action=DIM, reach=1, width=4),
        target=None,
        regularizers={},
        loss_weights={"prediction": 1.0, "inverse": 1.0},
    ).eval()


def world(extra=0):
    """Walkers that turn around in a box, before a background that never changes."""
    generator = torch.Generator().manual_seed(0)
    state = torch.rand(EPISODES, MOMENTS, DIM + extra, generator=generator) * 4 - 2
    background = torch.randn(EPISODES, 1, DIM, generator=generator).expand(-1, MOMENTS, -1)
    inputs = {"state": state, "background": background}
    first = {name: value[:, 0] for name, value in inputs.items()}
    actions = state.diff(dim=1)[..., :DIM].unsqueeze(2)
    pairs = Pairs(first, actions[:, 0, 0], first, torch.ones(EPISODES, dtype=torch.long))
    return Clip(inputs, actions, pairs), Episodes(inputs, state, 0)


class Position(IdentityEncoder):
    def forward(self, inputs):
        return super().forward({"state": inputs["state"]})


def health(encoder, predictor, extra=0):
    clip, episodes = world(extra)
    level = make_level(encoder, predictor)
    return SHIPPED.measure(level, level.output(clip), episodes.encoded(level))


def rank(rows):
    return effective_rank(spectrum(rows))


def test_effective_rank_of_identity_is_its_dimension():
    rows = torch.randn(20000, 6, generator=torch.Generator().manual_seed(0))
    assert rank(rows) == pytest.approx(6, rel=0.01)


def test_effective_rank_of_one_direction_is_one():
    scalar = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    assert rank(scalar * torch.tensor([1.0, -2.0, 3.0])) == pytest.approx(1, abs=1e-3)
    assert rank(scalar) == pytest.approx(1)


def test_effective_rank_of_known_eigenvalues():
    # deviations exactly 3 and 1, so shares 9/10 and 1/10 of the variance
    rows = torch.tensor([[3.0, 1.0], [3.0, -1.0], [-3.0, 1.0], [-3.0, -1.0]])
    assert rank(rows) == pytest.approx(0.9**-0.9 * 0.1**-0.1, rel=1e-6)


def test_effective_rank_ignores_rotation_scale_and_offset():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 4, generator=generator) * torch.tensor([1.0, 2.0, 0.1, 0.5])
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator))[0]
    assert rank(5 * rows @ rotation + 3) == pytest.approx(rank(rows), rel=1e-4)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (1.0, 0.0), (0.5, 0.25), (-1.0, 4.0)])
def test_ratio_to_copy_last(share, expected):
    latent = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(0))
    predicted = latent[:, :1] + share * (latent[:, 1:] - latent[:, :1])
    assert ratio_to_copy_last(F.mse_loss, predicted, latent) == pytest.approx(expected, abs=1e-6)


def test_a_predictor_of_inputs_is_judged_by_these():
    """An embedding far off, as of a state between two real ones, says nothing about the prediction of the inputs."""
    encoder = BesideInputsEncoder(inputs={"latent": (2,)}, dim=3)
    predictor = ViaInputsPredictor(dim_latent=5, dim_action=1, encoder=encoder)
    latent = encoder.embed(torch.randn(8, 5, 2, generator=torch.Generator().manual_seed(0))).detach()
    predicted = latent[:, 1:].clone()
    predicted[..., 2:] += 100
    assert ratio_to_copy_last(predictor.error, predicted, latent) == pytest.approx(0, abs=1e-6)
    assert ratio_to_copy_last(predictor.error, latent[:, :1].expand(8, 4, 5), latent) == pytest.approx(1, abs=1e-6)


def test_within_the_context_predictions_do_not_count():
    latent = torch.randn(8, 6, 2, generator=torch.Generator().manual_seed(0))
    # exact within a context of 3, then no change
    predicted = torch.cat([latent[:, 1:3], latent[:, 2:3].expand(-1, 3, -1)], 1)
    output = LevelOutput({}, latent, latent[:, 1:], predicted, latent[:, 1:], latent[:, 1:])
    level: Any = SimpleNamespace(predictor=SimpleNamespace(context=3, error=F.mse_loss))
    episodes: Any = None
    assert CopyLast()(level, output, episodes) == pytest.approx(1.0)


def test_state_probe_of_an_invertible_map_is_near_one():
    state = torch.rand(64, 32, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x, y = state.unbind(-1)
    latent = torch.stack([x + x**3, torch.sinh(2 * y) + x, torch.exp(x)], -1)
    assert state_probe_r2(latent, state) > 0.98


def test_state_probe_of_noise_is_near_zero():
    generator = torch.Generator().manual_seed(0)
    assert (
        state_probe_r2(torch.randn(64, 32, 3, generator=generator), torch.randn(64, 32, 2, generator=generator)) <= 0.1
    )


def test_state_probe_of_the_state_itself_is_one_where_unseen_episodes_go_elsewhere():
    steps = torch.rand(12, 200, DIM, generator=torch.Generator().manual_seed(0)) - 0.5
    walks = steps.cumsum(1)[:, ::6]
    assert state_probe_r2(walks, walks) > 0.999


def test_state_probe_of_half_the_state_is_half():
    state = torch.rand(64, 32, 2, generator=torch.Generator().manual_seed(0))
    assert state_probe_r2(state[..., :1], state) == pytest.approx(0.5, abs=0.1)


def test_state_probe_leaves_out_columns_that_never_vary():
    state = torch.rand(64, 32, 2, generator=torch.Generator().manual_seed(0))
    constant = torch.full((64, 32, 1), 3.0)
    assert state_probe_r2(state, torch.cat([state, constant], -1)) == pytest.approx(
        state_probe_r2(state, state), abs=1e-6
    )
    assert torch.tensor(state_probe_r2(state, constant)).isnan()


def test_state_probe_of_a_column_constant_in_the_test_half_is_finite():
    state = torch.rand(64, 32, 2, generator=torch.Generator().manual_seed(0))
    state[32:, :, 1] = 0.5
    assert torch.tensor(state_probe_r2(state, state)).isfinite()


def test_effective_rank_of_a_constant_is_not_full():
    assert rank(torch.ones(50, 4)) < 2


def test_a_healthy_level_gives_no_alarm():
    found = health(Position(inputs={"state": (DIM,)}), AddAction())
    assert SHIPPED.alarms(found) == []
    assert found["effective_rank"] == pytest.approx(2, abs=0.05)
    assert found["rank_share"] == pytest.approx(1, abs=0.05)
    assert found["std"] == pytest.approx(4 / 12**0.5, rel=0.1)
    assert found["within_episode"] == pytest.approx(1, abs=0.1)
    assert found["copy_last"] < 1e-6
    assert found["state_probe_r2"] > 0.95


def test_a_latent_of_one_direction_is_healthy_where_inputs_have_no_other():
    clip, episodes = world()
    flat = torch.cat([episodes.inputs["state"][..., :1], torch.zeros_like(episodes.inputs["state"][..., 1:])], -1)
    level = make_level(Position(inputs={"state": (DIM,)}), AddAction())
    found = RankShare()(
        level,
        level.output(clip),
        replace(episodes, inputs=episodes.inputs | {"state": flat, "background": 0 * flat}).encoded(level),
    )
    assert found == 1
    assert RankShare().alarm(found) is None


@pytest.mark.parametrize(("numbers", "compared"), [(1024, True), (1025, False)])
def test_latents_are_compared_with_inputs_of_at_most_so_many_numbers(numbers, compared):
    level = make_level(Position(inputs={"state": (DIM,)}), AddAction())
    level.encoder, level.standardize = IdentityEncoder(inputs={"state": (numbers,)}), nn.Identity()
    episodes = Episodes({"state": torch.randn(3, 4, numbers)}, torch.zeros(3, 4, 1), 0).encoded(level)
    assert (episodes.seen is not None) == compared


def test_a_latent_that_is_not_a_number_is_not_healthy():
    clip, episodes = world()
    level = make_level(Position(inputs={"state": (DIM,)}), AddAction())
    encoded = episodes.encoded(level)
    broken = replace(encoded, latent=encoded.latent * torch.nan)
    assert math.isnan(WithinEpisode()(level, level.output(clip), broken))


def test_a_latent_that_keeps_all_inputs_is_healthy_where_they_hardly_change():
    """Like a map of 100 cells beside a position; a latent that keeps the map alone is not."""
    clip, episodes = world()
    episodes = replace(episodes, inputs=episodes.inputs | {"background": 20 * episodes.inputs["background"]})
    level = make_level(Position(inputs={"state": (DIM,)}), AddAction())
    output = level.output(clip)
    level.encoder = IdentityEncoder(inputs=INPUTS)
    kept = episodes.encoded(level)
    numbers = {diagnostic.name: diagnostic(level, output, kept) for diagnostic in (WithinEpisode(), RankShare())}
    assert numbers == pytest.approx({"within_episode": 1, "rank_share": 1})
    assert _share(kept.latent) < 0.01
    level.encoder = Background()
    assert WithinEpisode()(level, output, episodes.encoded(level)) < 1e-6


def test_a_constant_latent_gives_alarms():
    found = health(Constant(), AddAction())
    text = "\n".join(SHIPPED.alarms(found))
    assert "shrinking to a point" in text
    assert found["state_probe_r2"] < 0.1


def test_a_shrunk_latent_gives_an_alarm():
    found = health(Shrunk(), Still())
    assert found["rank_share"] > 0.9  # it has lost nothing but its size
    assert any("deviation is 0.01" in text and "shrinking to a point" in text for text in SHIPPED.alarms(found))


def test_a_metric_level_is_as_wide_as_its_steps():
    """A small world is few steps wide, which many dimensions share."""
    clip, episodes = world()
    level = make_level(Position(inputs={"state": (DIM,)}), AddAction())
    level.metric = True
    found = SHIPPED.measure(level, level.output(clip), episodes.encoded(level))
    assert found["std"] == pytest.approx(DIM * 4 / 12**0.5, rel=0.1)


def test_a_static_latent_gives_an_alarm():
    found = health(Background(), Still())
    assert found["within_episode"] < 1e-6
    assert found["std"] > 0.5
    assert any("constant in an episode" in text for text in SHIPPED.alarms(found))


def test_one_direction_of_many_gives_an_alarm():
    level = make_level(Position(inputs={"state": (DIM,)}), AddAction())
    level.encoder, level.standardize = OneOfMany(), nn.Identity()
    clip, episodes = world(extra=20)
    level.predictor = Still()
    found = SHIPPED.measure(level, level.output(clip), episodes.encoded(level))
    assert found["rank_share"] == pytest.approx(0, abs=0.01)
    assert any("effective rank is only 0%" in text for text in SHIPPED.alarms(found))


def test_prediction_of_no_change_gives_an_alarm():
    (text,) = SHIPPED.alarms(health(Position(inputs={"state": (DIM,)}), Still()))
    assert "hardly better than predicting no change (error ratio 1.00)" in text
