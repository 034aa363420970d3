"""Recorded episodes made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hiwm.evaluation.outcomes import LevelTrace, Trace


def trace(task: int, success: bool, states: np.ndarray, subgoals: Sequence[np.ndarray], episode: int = 0) -> Trace:
    """An episode along states (T, C) in which every level plans at every step, and only hands down subgoals, (T, D_k) each."""
    steps = np.arange(len(states))
    levels = [
        LevelTrace(
            k, 1, 1.0, given, [], {"step": steps, "deadline": steps * 0 + 1, "subgoal": given},
            [f"level {k} at {i}" for i in steps],
        )
        for k, given in enumerate(subgoals)
    ]  # fmt: skip
    no_frames = np.zeros(0, int), np.zeros((0, 1, 1, 1), np.uint8)
    return Trace(task, episode, success, states, states[-1], np.zeros((len(states), 2)), steps, levels, *no_frames)
