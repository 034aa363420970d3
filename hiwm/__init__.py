"""hiwm: a research framework for hierarchical world models.

agent = hiwm.train({"state": states, "action": actions}, strides=[1, 10])  # or hiwm.load_agent("runs/<experiment>")
agent.reset(goal_observation)
action = agent.act(observation)
agent.plan  # the plan behind this action
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiwm.agent import Agent, load_agent
    from hiwm.api import train
    from hiwm.example import load_example
    from hiwm.planning.plan import Plan

# Where other jobs share the cores, threads of OpenMP that spin while they wait cost a factor of 4 to 50, even if they spin
# only briefly (tests/benchmarks/bench_busy.py). OpenMP reads this when torch loads it, so `import torch` before `import hiwm` keeps the
# default of OpenMP.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

__version__ = "0.1.0"
__all__ = ["Agent", "Plan", "load_agent", "load_example", "train"]

_PUBLIC = {
    "Agent": "hiwm.agent",
    "Plan": "hiwm.planning.plan",
    "load_agent": "hiwm.agent",
    "load_example": "hiwm.example",
    "train": "hiwm.api",
}


def __getattr__(name: str) -> Any:
    # imported on first use, because torch takes seconds to import and `hiwm --help` does not need it
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hiwm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
