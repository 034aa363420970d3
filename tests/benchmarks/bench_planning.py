"""Planning time of the hierarchy and its baselines, side by side on the levels that `hiwm run experiment=pointmaze` trains."""

import time
from pathlib import Path

import numpy as np
import pytest

import hiwm
from hiwm.config import load_config
from hiwm.evaluation.evaluate import make_agents

RUN = Path("runs/pointmaze-medium-navigate/hierarchy")
STEPS = 100


@pytest.mark.parametrize("batch", [1, 50])
def test_milliseconds_a_step(batch):
    if not RUN.exists():
        pytest.fail(f"{RUN} is missing: run `hiwm run experiment=pointmaze` first")
    agents = make_agents(hiwm.load_agent(RUN), load_config([]).evaluation)
    rng = np.random.default_rng(0)
    start, goal = (rng.uniform(0, 20, (batch, 2)).astype(np.float32) for _ in range(2))
    spent = {}
    for name, agent in agents.items():
        agent.reset(goal)
        agent.act(start)
        began = time.perf_counter()
        for _ in range(STEPS):
            agent.act(start)
        spent[name] = 1000 * (time.perf_counter() - began) / STEPS / batch
    print(f"\nbatch of {batch}, milliseconds an environment step and episode")
    for name, value in spent.items():
        print(f"  {name:<16}{value:8.3f}  x{value / spent['flat']:.2f} of flat")
