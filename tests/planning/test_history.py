"""What predictors with memory begin from is what the training windows would have held."""

from __future__ import annotations

import pytest
import torch

from hiwm.config import load_config
from hiwm.hierarchy import Hierarchy, LevelSpec
from hiwm.open_loop import mapped
from hiwm.planning.history import History

STRIDES, BATCH = (2, 3), 4


@pytest.fixture
def hierarchy():
    overrides = [f"predictor@levels.level{k}.predictor=transformer" for k in (0, 1)]
    config = load_config([*overrides, "levels.level1.predictor.context=4"])
    inputs, below, specs = {"state": (3,)}, 2, []
    for k, stride in enumerate(STRIDES):
        specs.append(LevelSpec(config.levels[f"level{k}"], stride, inputs, below, ""))
        level = specs[-1].build()
        inputs, below = {"latent": (level.encoder.dim,)}, level.action_encoder.dim
    torch.manual_seed(0)
    return Hierarchy([spec.build() for spec in specs], specs).eval()


class Counted:
    """The hierarchy's encoders; `passes` counts those of each episode."""

    def __init__(self, hierarchy):
        self.hierarchy, self.passes = hierarchy, 0

    def __call__(self, observation):
        self.passes += len(self.hierarchy)
        return self.hierarchy.encode(observation)


def lived(hierarchy, steps):
    """A history of that many steps, the observations with the present one, and the actions."""
    history = History(hierarchy, Counted(hierarchy))
    observations, actions = torch.randn(steps + 1, BATCH, 3), torch.randn(steps, BATCH, 2)
    for observation, action in zip(observations[:-1], actions, strict=True):
        history.append({"state": observation}, action)
    return history, observations, actions


def test_the_context_is_what_each_level_saw_and_did(hierarchy):
    history, observations, actions = lived(hierarchy, 40)
    assert history.length == len(history.steps) == 18  # three steps of level 1
    latents = [
        torch.stack(of_level) for of_level in zip(*(hierarchy.encode({"state": o}) for o in observations), strict=True)
    ]
    for k, period, count in ((0, 2, 3), (1, 6, 4)):
        history.encode.passes = 0
        found, done = history.context(k, latents[k][40])
        at = [40 - i * period for i in reversed(range(count))]
        torch.testing.assert_close(found, latents[k][at].transpose(0, 1))
        assert done.shape == (BATCH, count - 1, hierarchy.levels[k].action_encoder.dim)
        assert history.encode.passes >= (count - 1) * 2
    below = [torch.cat([actions[34 + 2 * j], actions[35 + 2 * j]], 1) for j in range(3)]
    torch.testing.assert_close(done[:, -1], hierarchy.levels[1].encode_actions(latents[1][34], torch.stack(below, 1)))


@pytest.mark.parametrize(("steps", "counts"), [(0, (1, 1)), (5, (3, 1)), (7, (3, 2))])
def test_the_context_is_shorter_early_in_an_episode(hierarchy, steps, counts):
    history, observations, _ = lived(hierarchy, steps)
    latents = hierarchy.encode({"state": observations[-1]})
    for k, count in enumerate(counts):
        found, done = history.context(k, latents[k])
        assert found.shape[1] == done.shape[1] + 1 == count


def test_ended_episodes_are_forgotten(hierarchy):
    history, observations, _ = lived(hierarchy, 10)
    before, _ = history.context(0, hierarchy.encode({"state": observations[-1]})[0])
    rows = torch.tensor([2, 0])
    history.select(rows)
    after, _ = history.context(0, hierarchy.encode({"state": observations[-1][rows]})[0])
    torch.testing.assert_close(after, before[rows])


def test_nothing_is_kept_for_predictors_without_memory(agent):
    history = History(agent.hierarchy, Counted(agent.hierarchy))
    history.append({"state": torch.zeros(1, 2)}, torch.zeros(1, 2))
    assert history.steps == []
    latent = agent.hierarchy.encode({"state": torch.zeros(1, 2)})[0]
    found, done = history.context(0, latent)
    assert (found.shape[1], done.shape[1], history.encode.passes) == (1, 0, 0)


def test_every_tensor_of_a_recurrent_state_is_repeated():
    state = [(torch.tensor([[1.0], [2.0]]), None), torch.tensor([3.0, 4.0])]
    (first, nothing), second = mapped(state, lambda rows: rows.repeat_interleave(2, 0))
    assert first.flatten().tolist() == [1, 1, 2, 2]
    assert nothing is None
    assert second.tolist() == [3, 3, 4, 4]
