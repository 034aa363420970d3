from __future__ import annotations

import numpy as np

from hiwm.evaluation.outcomes import Episodes, Trace
from hiwm.evaluation.traces import load_traces, save_traces


def test_traces_round_trip(tmp_path):
    rng = np.random.default_rng(0)

    def trace(task, success, length):
        subgoals = [rng.normal(size=(length, d)).astype(np.float32) for d in (2, 4, 3)]
        return Trace(
            task, success, rng.normal(size=(length, 2)), rng.normal(size=2), subgoals, ["because", f"of {length}"]
        )

    wrote = {
        "hierarchical": Episodes(traces=[trace(1, True, 5), trace(2, False, 8)]),
        "flat/odd name": Episodes(traces=[trace(2, True, 3)]),
    }
    save_traces(tmp_path / "traces.npz", wrote)
    read = load_traces(tmp_path / "traces.npz")
    assert set(read) == set(wrote)
    for agent, outcome in wrote.items():
        for one, other in zip(outcome.traces, read[agent], strict=True):
            assert (one.task, one.success) == (other.task, other.success)
            np.testing.assert_array_equal(one.states, other.states)
            np.testing.assert_array_equal(one.goal, other.goal)
            for a, b in zip(one.subgoals, other.subgoals, strict=True):
                np.testing.assert_array_equal(a, b)
            assert one.why == other.why


def test_old_traces_without_explanations_are_loaded(tmp_path):
    trace = Trace(1, True, np.zeros((2, 2)), np.zeros(2), [np.zeros((2, 3))], ["because"])
    save_traces(tmp_path / "new.npz", {"flat": Episodes(traces=[trace])})
    with np.load(tmp_path / "new.npz") as file:
        np.savez(tmp_path / "old.npz", **{name: file[name] for name in file if not name.endswith("why")})
    assert load_traces(tmp_path / "old.npz")["flat"][0].why == []
