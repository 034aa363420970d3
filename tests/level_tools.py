"""Levels for tests: one of every choice in configs/."""

import functools
from unittest import mock

import torch

from hiwm.config import load_config
from hiwm.hierarchy import LevelSpec
from hiwm.levels.clip import Clip

LATENT, STATE = {"latent": (5,)}, {"position": (2,), "pose": (2, 3)}
IMAGE, OBJECTS = {"pixels": (16, 16, 3)}, {"objects": (3, 4)}
DIM_BELOW = 2
VIA = "{_target_: hiwm.levels.predictors.via_inputs.ViaInputsPredictor}"
# every choice of every group of configs/ -> overrides, level, inputs, stride
CASES = {
    "level=state": ([], 0, STATE, 1),
    "level=abstract": ([], 1, LATENT, 3),
    "level=metric": (["level@levels.level1=metric"], 1, LATENT, 3),
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
    "encoder=beside_inputs": (["encoder@levels.level1.encoder=beside_inputs"], 1, LATENT, 3),
    "predictor=via_inputs": (
        ["encoder@levels.level1.encoder=beside_inputs", "predictor@levels.level1.predictor=via_inputs"], 1, LATENT, 3,
    ),
    "frequencies": (["+levels.level1.encoder.frequencies=3", "+levels.level1.encoder.encoded=2", "+levels.level1.predictor.frequencies=3"], 1, LATENT, 3),
    "ensemble of predictor=via_inputs": (
        [
            "encoder@levels.level1.encoder=beside_inputs", "predictor@levels.level1.predictor=ensemble",
            f"levels.level1.predictor.members=[{VIA}, {VIA}]",
        ],
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
    "temporal_distance",
    "step_distance",
    "graph_distance",
    "laplacian",
):
    CASES[f"regularizer={name}"] = ([f"regularizer@levels.level1={name}"], 1, LATENT, 3)
CASES["regularizer=imagined_distance"] = (
    ["regularizer@levels.level1=imagined_distance", *CASES["predictor=via_inputs"][0], "+levels.level1.encoder.embedded=1"], 1, LATENT, 3,
)  # fmt: skip
CASES["regularizer=pixels"] = (["level@levels.level0=pixels", "regularizer@levels.level0=pixels"], 0, IMAGE, 1)
for name in ("none", "sigreg"):
    CASES[f"macro={name}"] = ([f"macro@levels.level1={name}"], 1, LATENT, 3)
CASES["conditional=false"] = (["levels.level1.action_encoder.conditional=false"], 1, LATENT, 3)


@functools.cache  # composing takes longer than the tests
def composed(name):
    overrides, k, _, _ = CASES[name]
    return load_config(overrides).levels[f"level{k}"]


def build(config, inputs, stride=2):
    torch.manual_seed(0)
    level = LevelSpec(config, stride, inputs, DIM_BELOW, "0").build()
    with torch.no_grad():
        for parameter in level.parameters():  # away from initial zeros, which hide dependences
            parameter.add_(0.05 * torch.randn_like(parameter))
    windows = draw(inputs, 8, 5)
    if level.imagines:  # the last of the inputs is a switch
        windows["latent"][..., -1] = torch.arange(40).view(8, 5) % 2
    level.fit_regularizers(windows)
    if level.imagines:
        with mock.patch.object(level, "_step", functools.partial(switched, level)):
            level.imagine(Clip(windows, torch.randn(8, 4, stride, DIM_BELOW), None))
    return level


def switched(level, latent, actions):
    """Latents whose last input is the other one of 0 and 1."""
    inputs = level.encoder.read_inputs(latent)
    return level.encoder.embed(torch.cat([inputs[:, :-1], 1 - inputs[:, -1:]], 1))


def draw(inputs, *leading):
    return {name: torch.randn(*leading, *shape) for name, shape in inputs.items()}
