import pytest
import torch
from level_tools import CASES, OBJECTS, build, composed, draw

from hiwm.config import load_config
from hiwm.levels.inverse import InverseModel


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
