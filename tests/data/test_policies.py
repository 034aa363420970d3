from __future__ import annotations

import gymnasium
import numpy as np

from hiwm.data.policies import SmoothPolicy


def test_smooth_wandering_turns_towards_its_target(monkeypatch):
    monkeypatch.setattr(SmoothPolicy, "TURN_NOISE", 0.0)
    policy, seeds = SmoothPolicy(switch_steps=1e9), range(8)
    policy.reset(seeds, gymnasium.spaces.Box(-1, 1, (2,), np.float32), 600)
    last = policy.act(np.zeros((8, 2)), {}, 599)
    targets = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        rng.uniform(0, 2 * np.pi)  # the first heading
        targets.append(rng.uniform(0, 2 * np.pi))
    directions = last / np.linalg.norm(last, axis=1, keepdims=True)
    np.testing.assert_allclose(directions, np.stack([np.cos(targets), np.sin(targets)], 1), atol=1e-4)
