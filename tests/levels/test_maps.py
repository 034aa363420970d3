"""An agent that sees its map: what is around it, and an embedding that rotations and mirror images of the map leave alone."""

import copy

import pytest
import torch
from torch.nn import functional as F

from hiwm.config import load_config
from hiwm.experiment import collect, train
from hiwm.levels.encoders.beside_inputs import BesideInputsEncoder
from hiwm.levels.maps import SYMMETRIES, AroundAgent, MapEmbedding
from hiwm.levels.predictors.mlp import ResidualMLPPredictor
from hiwm.levels.predictors.via_inputs import ViaInputsPredictor

SIDE = 5
DIM = 4 + SIDE**2  # position, velocity, map


def agents(number: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, velocities and maps, of which there are three different ones."""
    generator = torch.Generator().manual_seed(seed)
    maps = (torch.rand(3, SIDE, SIDE, generator=generator) > 0.5).float()
    position = SIDE * torch.rand(number, 2, generator=generator)
    return position, torch.randn(number, 2, generator=generator), maps[torch.arange(number) % 3]


def joined(position: torch.Tensor, velocity: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    return torch.cat([position, velocity, maps.flatten(-2)], -1)


def turned(x: torch.Tensor, symmetry: tuple[bool, bool, bool]) -> torch.Tensor:
    """Whole inputs after a symmetry of the square, cell by cell, without the code under test."""
    swap, reverse_x, reverse_y = symmetry
    position, velocity, maps = x[:, :2] - SIDE / 2, x[:, 2:4], x[:, 4:].unflatten(1, (SIDE, SIDE))
    if swap:
        position, velocity, maps = position.flip(1), velocity.flip(1), maps.transpose(1, 2)
    signs = torch.tensor([-1.0 if reverse_x else 1.0, -1.0 if reverse_y else 1.0])
    maps = maps.flip(2) if reverse_x else maps
    maps = maps.flip(1) if reverse_y else maps
    return joined(position * signs + SIDE / 2, velocity * signs, maps)


def test_distances_are_the_same_for_rotations_and_mirror_images():
    embedding = MapEmbedding(DIM, 32, SIDE, 16)
    x = joined(*agents(12))
    distances = torch.cdist(embedding(x), embedding(x), p=1)
    assert distances[0, 1] > 0.01
    assert len(SYMMETRIES) == 8
    for symmetry in SYMMETRIES:
        other = embedding(turned(x, symmetry))
        torch.testing.assert_close(torch.cdist(other, other, p=1), distances, rtol=1e-4, atol=1e-5)
    sheared = x.clone()
    sheared[:, 2] += x[:, 3]
    other = embedding(sheared)
    assert not torch.allclose(torch.cdist(other, other, p=1), distances, rtol=1e-2)


def test_a_wall_anywhere_changes_the_embedding():
    embedding = MapEmbedding(DIM, 16, SIDE, 16)
    x = joined(torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2), torch.zeros(1, SIDE, SIDE))
    far = x.clone()
    far[0, -1] = 1.0  # the opposite corner
    assert not torch.equal(embedding(x), embedding(far))
    near_a_wall = x.clone()
    near_a_wall[0, -1] = 0.4  # is free
    assert torch.equal(embedding(x), embedding(near_a_wall))


def fresh(embedding: MapEmbedding) -> MapEmbedding:
    """The same weights, without anything remembered."""
    made = MapEmbedding(DIM, embedding.dim, SIDE, 16)
    made.load_state_dict(embedding.state_dict())
    return made


def test_features_of_other_maps_or_other_weights_are_not_reused():
    embedding = MapEmbedding(DIM, 16, SIDE, 16)
    position, velocity, maps = agents(6)
    x, other_maps = joined(position, velocity, maps), joined(position, velocity, 1 - maps)
    with torch.no_grad():
        before = embedding(x)
        assert torch.equal(embedding(x), before)
        torch.testing.assert_close(embedding(other_maps), fresh(embedding)(other_maps))
        copied = copy.deepcopy(embedding)
        embedding.spread.bias.add_(1.0)
        assert not torch.allclose(embedding(x), before)
        torch.testing.assert_close(embedding(x), fresh(embedding)(x))
        copied(x)
        copied.load_state_dict(embedding.state_dict())
        torch.testing.assert_close(copied(x), embedding(x))
    torch.testing.assert_close(embedding(x), fresh(embedding)(x))  # with gradients


def test_the_features_of_a_training_step_are_computed_once(monkeypatch):
    embedding, counted = MapEmbedding(DIM, 16, SIDE, 16), []
    spread = embedding._spread
    monkeypatch.setattr(embedding, "_spread", lambda maps: counted.append(len(maps)) or spread(maps))
    x = joined(*agents(12))
    embedding(x)
    with torch.no_grad():
        embedding(x + 0.01)
    assert counted == [3]


@pytest.mark.parametrize("leading", [(), (0,), (2, 3)])
def test_any_leading_shape(leading):
    x = joined(*agents(6))[0].expand(*leading, DIM)
    assert MapEmbedding(DIM, 16, SIDE, 16)(x).shape == (*leading, 16)
    assert AroundAgent(DIM, SIDE, 1)(x).shape == (*leading, 13)


def test_around_the_agent():
    around = AroundAgent(DIM, SIDE, 1, dim_more=3)
    position, velocity, maps = agents(20)
    seen = around(torch.cat([joined(position, velocity, maps), torch.ones(20, 3)], 1))
    assert seen.shape == (20, around.dim) == (20, 2 + 2 + 9 + 3)
    torch.testing.assert_close(seen[:, :2], position % 1 - 0.5)
    torch.testing.assert_close(seen[:, 2:4], velocity)
    padded = F.pad(maps.unsqueeze(1), (1, 1, 1, 1), mode="replicate")[:, 0]
    for row, (x, y) in enumerate(position.int().tolist()):
        assert seen[row, 4:13].tolist() == padded[row, y : y + 3, x : x + 3].flatten().tolist()
    assert (seen[:, 13:] == 1).all()


def test_beyond_the_edge_the_map_repeats():
    around = AroundAgent(DIM, SIDE, 2)
    maps = torch.arange(SIDE**2).float().unflatten(0, (SIDE, SIDE))
    outside = joined(torch.tensor([-0.3, 7.0]), torch.zeros(2), maps)
    assert around(outside)[4:].unflatten(0, (5, 5))[2, 2] == maps[-1, 0]


def test_predictions_keep_the_map_and_are_the_same_everywhere():
    predictor = ResidualMLPPredictor(dim_latent=DIM, dim_action=2, width=16, map_side=SIDE, view=1)
    predictor.fit(torch.cat([torch.ones(4), torch.zeros(SIDE**2)]))
    empty = torch.zeros(2, SIDE, SIDE)
    x = joined(torch.tensor([[1.25, 1.5], [3.25, 2.5]]), torch.ones(2, 2), empty)
    after = predictor(x, torch.ones(2, 2))
    torch.testing.assert_close(after[:, 4:], x[:, 4:], atol=1e-4, rtol=0)
    torch.testing.assert_close((after - x)[0, :4], (after - x)[1, :4])
    assert (after - x)[0, :4].abs().min() > 1e-4


def test_via_inputs_sees_the_map():
    encoder = BesideInputsEncoder(inputs={"latent": (DIM,)}, dim=16, width=16, map_side=SIDE)
    predictor = ViaInputsPredictor(dim_latent=encoder.dim, dim_action=2, encoder=encoder, width=16, view=1)
    predictor.fit(torch.cat([torch.ones(4), torch.zeros(encoder.dim - 4)]))
    z = encoder({"latent": joined(*agents(6))})
    after = predictor(z, torch.ones(6, 2))
    torch.testing.assert_close(after, encoder.embed(encoder.read_inputs(after)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoder.read_inputs(after)[:, 4:], encoder.read_inputs(z)[:, 4:], atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AroundAgent(DIM, SIDE + 1, 1), "map_side is 6, so that -7 of the 29 inputs are not the map"),
        (
            lambda: AroundAgent(DIM + 1, SIDE, 1),
            "map_side is 5, so that 5 of the 30 inputs are not the map; expected an even",
        ),
        (lambda: AroundAgent(DIM, SIDE, 0), "view is 0; expected at least 1"),
        (lambda: MapEmbedding(DIM, 12, SIDE, 16), "dim is 12; expected a multiple of 8"),
        (lambda: MapEmbedding(DIM, 0, SIDE, 16), "dim is 0; expected a multiple of 8"),
        (
            lambda: BesideInputsEncoder(inputs={"latent": (DIM,)}, dim=16, map_side=SIDE, frequencies=2),
            "map_side is set together with frequencies",
        ),
        (
            lambda: ResidualMLPPredictor(dim_latent=DIM, dim_action=2, map_side=SIDE, frequencies=2),
            "map_side and frequencies are both set",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["levels.level0.min_std=0.001"], "min_std is 0.001 and a part has a map_side; expected min_std=null"),
        (["levels.level1.min_std=0.001"], "min_std is 0.001 and a part has a map_side; expected min_std=null"),
        (["inputs=[map,position,velocity]"], "the last 100, the map, are between .*; expected 0 to 1"),
        (["inputs=[velocity,position,map]"], "the first two, the position, are between -.*; expected 0 to 10"),
    ],
)
def test_inputs_that_are_no_position_and_map_are_refused(overrides, message, tmp_path):
    config = load_config(
        [
            "experiment=diverse-maze",
            f"root={tmp_path}",
            "dataset.episodes=20",
            "dataset.workers=1",
            "graph.num_nodes=100",
            "tracking=none",
            *overrides,
        ]
    )

    def run() -> None:
        collect(config)
        train(config)

    with pytest.raises(ValueError, match=message):
        run()
