import pytest
import torch

from hiwm.levels.standardize import Standardize


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
