import pytest
import torch
from level_tools import DIM_BELOW, IMAGE, build

from hiwm.config import load_config
from hiwm.hierarchy import LevelSpec
from hiwm.levels.inverse import InverseModel


def test_a_level_without_an_inverse_model_says_so():
    level = build(load_config(["level@levels.level0=pixels"]).levels["level0"], IMAGE)
    with pytest.raises(ValueError, match="no inverse model"):
        level.infer_action(torch.zeros(2, 32), torch.zeros(2, 32), torch.ones(2))


def test_delegate_standardises_the_latent_below():
    config = load_config([]).levels["level1"]
    level = LevelSpec(config, 2, {"latent": (5,)}, DIM_BELOW, "0").build()
    source, target, steps = torch.randn(4, 5), torch.randn(4, level.encoder.dim), torch.tensor([1, 2, 3, 4])
    before = level.infer_action(source, target, steps)
    level.standardize.fit({"latent": torch.full((5,), 3.0)}, {"latent": torch.full((5,), 7.0)})
    torch.testing.assert_close(level.infer_action(source * 7 + 3, target, steps), before, rtol=1e-4, atol=1e-5)


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
