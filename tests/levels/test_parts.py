"""The formulas of single parts, each with weights that make the answer known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hiwm.levels.action_encoders.mean import MeanActionEncoder
from hiwm.levels.entities import EntityLayer
from hiwm.levels.predictors.ensemble import EnsemblePredictor
from hiwm.levels.predictors.graph import GraphPredictor
from hiwm.levels.predictors.gru import GRUPredictor
from hiwm.levels.predictors.mlp import ResidualMLPPredictor
from hiwm.levels.predictors.transformer import TransformerPredictor

SIZES = {"dim_latent": 6, "dim_action": 2, "width": 8}
PREDICTORS = {
    "mlp": lambda: ResidualMLPPredictor(**SIZES),
    "gru": lambda: GRUPredictor(**SIZES),
    "transformer": lambda: TransformerPredictor(**SIZES),
    "graph": lambda: GraphPredictor(**SIZES, entities=3),
    "ensemble": lambda: EnsemblePredictor(dim_latent=6, members=[ResidualMLPPredictor(**SIZES) for _ in range(2)]),
}


@pytest.mark.parametrize("name", PREDICTORS)
def test_the_predicted_change_is_in_units_of_the_scale(name):
    torch.manual_seed(0)
    predictor = PREDICTORS[name]().eval()
    latent, action, scale = torch.randn(5, 6), torch.randn(5, 2), torch.rand(6) + 0.1
    change = predictor(latent, action) - latent
    predictor.fit(scale)
    torch.testing.assert_close(predictor(latent, action) - latent, scale * change, rtol=1e-4, atol=1e-5)


def test_the_gru_has_the_gates_of_torchs():
    torch.manual_seed(0)
    predictor, cell = GRUPredictor(**SIZES), nn.GRUCell(6 + 2, 8)
    predictor.input.weight, predictor.input.bias = cell.weight_ih, cell.bias_ih
    predictor.hidden.weight, predictor.hidden.bias = cell.weight_hh, cell.bias_hh
    latent, memory, action = torch.randn(5, 6), torch.randn(5, 8), torch.randn(5, 2)
    _, (_, after) = predictor.step((latent, memory), action)
    torch.testing.assert_close(after, cell(torch.cat([latent, action], -1), memory))


def test_tokens_of_a_transformer_do_not_attend_to_later_ones():
    torch.manual_seed(0)
    (block, *_) = TransformerPredictor(**SIZES).blocks
    for parameter in block.parameters():  # the gates begin at 0
        nn.init.normal_(parameter)
    tokens, condition = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    later = tokens.clone()
    later[:, 2] += torch.randn(8)
    before, after = block(tokens, condition), block(later, condition)
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert not torch.allclose(after[:, 2], before[:, 2])


def test_the_mean_action_encoder_maps_the_mean():
    encoder = MeanActionEncoder(dim_below=2, dim=3)
    actions = torch.tensor([[[1.0, 5.0], [3.0, 5.0], [5.0, 2.0]]])
    torch.testing.assert_close(encoder(torch.zeros(1, 4), actions), encoder.map(torch.tensor([[3.0, 4.0]])))


def test_messages_are_about_the_difference_of_two_objects():
    layer = EntityLayer(2)
    layer.relation = nn.Identity()
    mine, other, edge = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 7.0]]), torch.tensor([[8.0, 9.0]])
    assert layer.message(mine, other, edge).tolist() == [[1, 2, 3, 5, 8, 9]]
