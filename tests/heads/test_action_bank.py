from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import shipped

from hiwm.data.store import Trajectories
from hiwm.heads import action_bank
from hiwm.heads.action_bank import ActionBank, build_action_bank

PERIOD = 4
LENGTHS = [3, 30, 4, 9, 5, 21, 13]  # the first and the third hold no action at all


def cache(lengths=LENGTHS):
    """A level's cache; latents are (row, episode), rows without an action hold zeros."""
    ep_len = np.array(lengths)
    offset = np.cumsum(ep_len) - ep_len
    rng = np.random.default_rng(0)
    latent = np.stack([np.arange(ep_len.sum()), np.repeat(np.arange(len(ep_len)), ep_len)], 1).astype(np.float32)
    action = np.zeros((ep_len.sum(), 3), np.float32)
    for o, n in zip(offset, ep_len, strict=True):
        there = max(0, n - PERIOD)
        action[o : o + there] = rng.normal([1, 0, -2], [1, 2, 0.5], (there, 3))
    return Trajectories(Path("cache"), {"latent": latent, "action": action}, ep_len, offset)


def real_actions(data):
    """What the cache holds, episode by episode; a real action is nowhere zero."""
    return data.column("action")[(data.column("action") != 0).all(1)]


@pytest.mark.parametrize("recent", [10_000, 20])
def test_quantiles_are_those_of_the_last_real_actions(recent, monkeypatch):
    monkeypatch.setattr(action_bank, "RECENT", recent)
    data = cache()
    bank = build_action_bank(data, PERIOD, shipped("action_bank"), seed=0)
    last = real_actions(data)[-recent:]
    assert len(last) == min(recent, sum(max(0, n - PERIOD) for n in LENGTHS))
    np.testing.assert_allclose(bank.low, np.quantile(last, 0.02, axis=0), rtol=1e-4)
    np.testing.assert_allclose(bank.high, np.quantile(last, 0.98, axis=0), rtol=1e-4)


def test_sequences_are_those_of_the_data():
    data = cache()
    bank = build_action_bank(data, PERIOD, shipped("action_bank", length=5), seed=0)
    action = data.column("action")
    assert len(bank.start) == len(real_actions(data))  # a small dataset is kept whole
    for start, sequence, steps in zip(bank.start, bank.actions, bank.steps, strict=True):
        row, episode = map(int, start)
        left = int(data.ep_offset[episode] + data.ep_len[episode]) - PERIOD - row
        assert steps == min(5, len(range(0, left, PERIOD))) > 0
        np.testing.assert_array_equal(sequence[:steps], action[row : row + PERIOD * int(steps) : PERIOD])
        assert (sequence[:steps] != 0).all()
        assert (sequence[steps:] == 0).all()


def test_the_longest_sequence_is_what_the_episodes_hold():
    data = cache()
    assert build_action_bank(data, PERIOD, shipped("action_bank", length=100), seed=0).longest == 7  # of 30 rows
    assert build_action_bank(data, PERIOD, shipped("action_bank", length=3), seed=0).longest == 3


def test_the_bank_is_drawn_by_the_seed():
    data = cache()
    first, again, other = (
        build_action_bank(data, PERIOD, shipped("action_bank", size=12), seed).start for seed in (0, 0, 1)
    )
    assert first.shape == (12, 2)
    assert len(torch.unique(first, dim=0)) == 12
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nearest_sequences_are_long_enough():
    bank = build_action_bank(cache(), PERIOD, shipped("action_bank"), seed=0)
    latent = torch.tensor([[10.0, 1.0], [70.0, 5.0]])
    near = bank.nearest(latent, 3, horizon=3)
    assert near.shape == (2, 3, 3, 3)
    long_enough = [i for i in range(len(bank.steps)) if bank.steps[i] >= 3]
    for here, sequences in zip(latent, near, strict=True):
        by_distance = sorted(long_enough, key=lambda i: float((bank.start[i] - here).norm()))
        distances = [float((bank.start[i] - here).norm()) for i in by_distance]
        found = [next(i for i in long_enough if torch.equal(bank.actions[i, :3], s)) for s in sequences]
        assert [float((bank.start[i] - here).norm()) for i in found] == distances[:3]
    assert bank.nearest(latent, 10_000, horizon=3).shape[1] == len(long_enough)


def test_sequences_are_compared_by_what_is_read_of_latents():
    start = torch.tensor([[0.0, 3.0], [5.0, 1.0], [9.0, 2.0]])
    bank = ActionBank(
        low=torch.zeros(1), high=torch.ones(1), start=start, actions=start[:, None, :1], steps=torch.ones(3, dtype=torch.long)
    )  # fmt: skip
    near = bank.nearest(torch.tensor([[0.0, 0.0]]), 3, horizon=1, read=lambda z: z[:, 1:])
    assert near.flatten().tolist() == [5.0, 9.0, 0.0]


def test_saved_and_loaded_are_the_same(tmp_path):
    bank = build_action_bank(cache(), PERIOD, shipped("action_bank", size=12), seed=0)
    bank.save(tmp_path / "bank.safetensors")
    loaded = ActionBank.load(tmp_path / "bank.safetensors")
    assert loaded.state_dict().keys() == {"low", "high", "start", "actions", "steps"}
    for name, tensor in bank.state_dict().items():
        assert torch.equal(getattr(loaded, name), tensor)


def test_episodes_without_an_action_are_refused():
    with pytest.raises(ValueError, match="the longest episode has 4 rows; expected more than 4"):
        build_action_bank(cache([3, 4]), PERIOD, shipped("action_bank"), seed=0)


@pytest.mark.parametrize(("key", "value"), [("size", 0), ("length", 0)])
def test_config_names_the_key(key, value):
    with pytest.raises(ValueError, match=rf"action_bank.{key} is {value}; expected at least 1"):
        shipped("action_bank", **{key: value})
