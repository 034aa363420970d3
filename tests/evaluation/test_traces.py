from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import trace_tools

from hiwm.evaluation.outcomes import Episodes, LevelTrace, Trace, first_and_failed
from hiwm.evaluation.traces import load_traces, save_traces


def trace(task, success, length, episode=0):
    rng = np.random.default_rng(length)
    subgoals = [rng.normal(size=(length, d)).astype(np.float32) for d in (2, 4, 3)]
    return trace_tools.trace(task, success, rng.normal(size=(length, 2)), subgoals, episode)


def assert_equal(one, other):
    for field in fields(type(one)):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, dict):
            assert set(a) == set(b)
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
        elif isinstance(a, list) and a and isinstance(a[0], LevelTrace):
            for x, y in zip(a, b, strict=True):
                assert_equal(x, y)
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        else:
            assert a == b


def test_traces_round_trip(tmp_path):
    wrote = {
        "hierarchical": Episodes(traces=[trace(1, True, 5), trace(1, False, 7, episode=13), trace(2, False, 8)]),
        "flat/odd name": Episodes(traces=[trace(2, True, 3)]),
    }
    save_traces(tmp_path / "traces.npz", wrote)
    read = load_traces(tmp_path / "traces.npz")
    assert set(read) == set(wrote)
    for agent, outcome in wrote.items():
        for one, other in zip(outcome.traces, read[agent], strict=True):
            assert isinstance(other, Trace)
            assert_equal(one, other)


def test_walls_of_episodes_are_kept_and_may_lack(tmp_path):
    walls = np.array([[0.0, 0.0, 1.0, 2.0], [3.0, 1.0, 1.0, 1.0]])
    save_traces(tmp_path / "new.npz", {"flat": Episodes(traces=[replace(trace(1, True, 3), walls=walls)])})
    assert load_traces(tmp_path / "new.npz")["flat"][0].walls.tolist() == walls.tolist()
    with np.load(tmp_path / "new.npz") as file:  # as the version before this one wrote it
        arrays = {name: file[name] for name in file if not name.endswith("/walls")}
    arrays["names"] = np.array([name for name in arrays["names"] if not name.endswith("/walls")])
    np.savez(tmp_path / "before.npz", **arrays)
    assert load_traces(tmp_path / "before.npz")["flat"][0].walls.shape == (0, 4)


def test_files_of_older_versions_hold_no_episodes(tmp_path):
    np.savez(tmp_path / "old.npz", **{"flat/1/success": np.array(True), "flat/1/states": np.zeros((2, 2))})
    assert load_traces(tmp_path / "old.npz") == {}


def test_other_names_of_arrays_are_refused(tmp_path):
    """For instance after a flipped bit; without the names, a level would be missing silently."""
    save_traces(tmp_path / "new.npz", {"flat": Episodes(traces=[trace(1, True, 3)])})
    with np.load(tmp_path / "new.npz") as file:
        arrays = {name: file[name] for name in file}
    for name in ("flat/1-0/level2/why", "flat/1-0/level1/plans/deadline", "names"):
        np.savez(tmp_path / "other.npz", **{f"{key}x" if key == name else key: value for key, value in arrays.items()})
        with pytest.raises(ValueError, match=r"other\.npz is damaged"):
            load_traces(tmp_path / "other.npz")


def test_a_trace_explains_the_plans_in_force():
    found = trace(1, True, 5)
    assert found.explain(3) == "level 2 at 3\nlevel 1 at 3\nlevel 0 at 3\naction 0, 0"
    assert [len(given) for given in found.subgoals] == [5, 5, 5]


def test_the_first_episode_and_the_first_failure_of_each_task_are_kept():
    every = [trace(2, False, 4, 0), trace(2, False, 4, 1), trace(1, False, 4, 9), trace(1, False, 4, 5), trace(1, True, 4, 0),
             trace(3, True, 4, 0)]  # fmt: skip
    assert [(each.task, each.episode) for each in first_and_failed(every)] == [(1, 0), (1, 5), (2, 0), (3, 0)]
