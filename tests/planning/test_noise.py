"""Each episode draws its own random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hiwm.planning.noise import EpisodeNoise

KINDS = ("normal", "exponential", "uniform")


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_draws_the_same_in_every_batch(kind):
    together = EpisodeNoise.of_episodes(5, [10, 11, 12, 13])
    first = getattr(together, kind)((4, 30, 2))
    some = together.select(torch.tensor([True, False, True, False]))
    second = getattr(some, kind)((2, 7))
    last = getattr(some.select(torch.tensor([1])), kind)((1, 3))
    alone = EpisodeNoise.of_episodes(5, [12])
    for expected in (first[2:3], second[1:2], last):
        assert torch.equal(getattr(alone, kind)(expected.shape), expected)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(getattr(EpisodeNoise.of_episodes(6, [12]), kind)((1, 30, 2)), first[2:3])


def test_distributions():
    noise = EpisodeNoise([0, 1])
    drawn = {kind: getattr(noise, kind)((2, 50_000)) for kind in KINDS}
    assert {kind: (x.mean(1) * 50).round().tolist() for kind, x in drawn.items()} == {
        "normal": [0, 0], "exponential": [50, 50], "uniform": [25, 25],
    }  # fmt: skip
    assert drawn["normal"].std().item() == pytest.approx(1, abs=0.02)
    assert torch.corrcoef(drawn["normal"])[0, 1].abs() < 0.02


def test_a_batch_of_another_size_is_refused():
    with pytest.raises(ValueError, match="zip"):
        EpisodeNoise([0, 1]).normal((3, 2))


def test_an_agent_plans_alike_in_every_batch(agent):
    """The random numbers are equal; batched matrix products round differently."""
    goals, states = np.random.default_rng(0).uniform(size=(2, 5, 2)).astype(np.float32)
    numbers = [3, 1, 4, 15, 9]

    def actions(rows):
        agent.reset(goals[rows], episodes=[numbers[i] for i in rows])
        first = agent.act(states[rows])
        return np.stack([first, *(agent.act(states[rows]) for _ in range(5))], 1)

    whole = actions([0, 1, 2, 3, 4])
    np.testing.assert_allclose(actions([2, 0]), whole[[2, 0]], atol=1e-4)
    np.testing.assert_allclose(actions([4]), whole[[4]], atol=1e-4)
    agent.reset(goals, episodes=numbers)
    agent.act(states)
    agent.select(np.array([1, 3]))
    np.testing.assert_allclose(agent.act(states[[1, 3]]), whole[[1, 3], 1], atol=1e-4)
    with pytest.raises(ValueError, match="episodes has 2 numbers; expected 5, one for each goal"):
        agent.reset(goals, episodes=[1, 2])


def test_other_numbers_search_otherwise(agent):
    goals, states = np.random.default_rng(0).uniform(size=(2, 5, 2)).astype(np.float32)
    found = []
    for numbers in (None, range(5), range(5, 10)):
        agent.reset(goals, episodes=numbers)
        found.append(agent.act(states))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
