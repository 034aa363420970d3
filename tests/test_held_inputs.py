"""Observations that latents hold."""

import torch

from hiwm.config import load_config
from hiwm.hierarchy import Hierarchy, LevelSpec


def hierarchy(*overrides):
    """Two levels over a position and two objects."""
    levels = load_config(["experiment=pointmaze", *overrides]).levels
    torch.manual_seed(0)
    below = LevelSpec(levels["level0"], 1, {"position": (2,), "objects": (2, 3)}, 2, "0")
    bottom = below.build()
    statistics = {name: torch.rand(shape) + 0.5 for name, shape in below.inputs.items()}
    bottom.standardize.fit(statistics, statistics)
    above = LevelSpec(levels["level1"], 2, {"latent": (bottom.encoder.dim,)}, 2, "1")
    return Hierarchy([bottom, above.build()], [below, above])


def test_an_observation_is_read_through_all_levels():
    found = hierarchy("encoder@levels.level1.encoder=beside_inputs", "levels.level1.encoder.dim=4")
    seen = {"position": torch.randn(5, 7, 2), "objects": torch.randn(5, 7, 2, 3)}
    for k, latent in enumerate(found.encode(seen)):
        read = found.read_inputs(k, latent)
        assert read is not None
        assert set(read) == set(seen)
        for name, value in seen.items():
            torch.testing.assert_close(read[name], value, rtol=1e-4, atol=1e-4)


def test_a_level_that_keeps_no_inputs_holds_none():
    found = hierarchy()
    latents = found.encode({"position": torch.randn(5, 2), "objects": torch.randn(5, 2, 3)})
    assert found.read_inputs(0, latents[0]) is not None
    assert found.read_inputs(1, latents[1]) is None


def test_other_values_are_written_into_the_observations_that_latents_hold():
    found = hierarchy("encoder@levels.level1.encoder=beside_inputs", "levels.level1.encoder.dim=4")
    seen = {"position": torch.randn(5, 7, 2), "objects": torch.randn(5, 7, 2, 3)}
    wanted = torch.randn(5, 1, 2, 3)
    wanted[:, :, 0, 1] = torch.nan
    latents = found.encode(seen)
    expected = found.encode(seen | {"objects": torch.where(wanted.isnan(), seen["objects"], wanted)})
    for k, latent in enumerate(latents):
        written = found.write_inputs(k, latent, {"objects": wanted})
        torch.testing.assert_close(written, expected[k], rtol=1e-4, atol=1e-4)
        assert found.write_inputs(k, latent, {"speed": wanted}) is None


def test_nothing_is_written_into_latents_that_hold_no_inputs():
    found = hierarchy()
    latents = found.encode({"position": torch.randn(5, 2), "objects": torch.randn(5, 2, 3)})
    assert found.write_inputs(1, latents[1], {"position": torch.zeros(2)}) is None
