import pytest
import torch
from level_tools import CASES, DIM_BELOW, LATENT, build

from hiwm.config import load_config
from hiwm.levels.action_encoders.raw import RawActionEncoder


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


@pytest.mark.parametrize("leading", [(), (4,), (4, 3)], ids=str)
def test_raw_action_encoder_decode_inverts_forward(leading):
    encoder = RawActionEncoder(dim_below=2, stride=3)
    actions = torch.randn(*leading, 3, 2)
    encoded = encoder(torch.randn(*leading, 7), actions)
    assert encoded.shape == (*leading, encoder.dim)
    assert torch.equal(encoder.decode(encoded), actions)
