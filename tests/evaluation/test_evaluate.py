from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
from tiny import TinyRoom

from hiwm.evaluation.episodes import episode_seed, run_episodes
from hiwm.evaluation.evaluate import Forbidden, evaluate, make_agents, summarize
from hiwm.evaluation.outcomes import Episodes, Trace
from hiwm.evaluation.statistics import wilson_interval
from hiwm.evaluation.traces import load_traces, save_traces


@pytest.mark.parametrize(
    ("won", "of", "low", "high"),
    [  # reference values of the Wilson score interval, to three digits
        (9, 10, 0.596, 0.982),
        (0, 10, 0.0, 0.278),
        (10, 10, 0.722, 1.0),
        (5, 10, 0.237, 0.763),
        (1, 1, 0.207, 1.0),
        (250, 250, 0.985, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(won, of, low, high):
    assert wilson_interval(won, of) == pytest.approx((low, high), abs=6e-4)


class RecordingRoom(TinyRoom):
    """Notes every start and goal."""

    seen: list = []  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        RecordingRoom.seen.append((options["task_id"], seed, *observation.tolist(), *info["goal"].tolist()))
        return observation, info


def silent(*_):
    pass


def starts_and_goals(agent, num_envs, episodes=3, seed=0):
    RecordingRoom.seen = []
    outcome = run_episodes(
        agent,
        RecordingRoom,
        num_tasks=2,
        episodes=episodes,
        max_steps=2,
        num_envs=num_envs,
        seed=seed,
        state=[],
        report=silent,
    )
    assert outcome.task == [1] * episodes + [2] * episodes
    return list(dict.fromkeys(RecordingRoom.seen))  # copies that fill up a batch are not looked at


def test_starts_and_goals_depend_on_seed_task_and_episode_only(agent):
    one = starts_and_goals(agent, num_envs=1)
    assert len(one) == 6
    assert one == starts_and_goals(agent, num_envs=2)
    assert one == starts_and_goals(agent, num_envs=50)
    assert {(task, seed) for task, seed, *_ in one} == {(t, episode_seed(0, t, e)) for t in (1, 2) for e in range(3)}
    # more episodes begin with the same ones
    more = starts_and_goals(agent, num_envs=2, episodes=4)
    assert set(one) < set(more)
    assert not set(one) & set(starts_and_goals(agent, num_envs=2, seed=1))


class OneStepRoom(TinyRoom):
    """Succeeds on the first step in episodes that start left of x = 0.2, never otherwise; never moves."""

    def step(self, action):
        over = bool(self.position[0] < 0.2)
        return self._observation(), 0.0, over, False, {"success": over}


@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_successes_and_steps_are_counted_for_the_right_episode(agent, num_envs):
    outcome = run_episodes(
        agent, OneStepRoom, num_tasks=1, episodes=5, max_steps=4, num_envs=num_envs, seed=0, state=[], report=silent
    )
    room, expected = OneStepRoom(), []
    for e in range(5):
        room.reset(seed=episode_seed(0, 1, e), options={"task_id": 1})
        expected.append(bool(room.position[0] < 0.2))
    assert len(set(expected)) == 2
    assert outcome.success == expected
    assert outcome.steps == [1 if won else 4 for won in expected]
    assert sum(outcome.planned) == sum(outcome.steps)


def test_report_and_traces(agent):
    reports = []
    outcome = run_episodes(
        agent,
        TinyRoom,
        num_tasks=2,
        episodes=3,
        max_steps=3,
        num_envs=2,
        seed=0,
        state=[],
        report=lambda *a: reports.append(a),
    )
    assert [(done, of) for done, _, of in reports] == [(0, 6), (2, 6), (3, 6), (5, 6), (6, 6)]
    assert [trace.task for trace in outcome.traces] == [1, 2]
    room = TinyRoom()
    for trace in outcome.traces:
        start, info = room.reset(seed=episode_seed(0, trace.task, 0), options={"task_id": trace.task})
        np.testing.assert_array_equal(trace.states[0], start)
        np.testing.assert_array_equal(trace.goal, info["goal"])
        assert trace.states.shape == (3, 2)
        assert [subgoals.shape for subgoals in trace.subgoals] == [(3, 2), (3, 4), (3, 4)]


def measured_calls(agent, config, folder):
    """Predictor calls an environment step, in a room where nobody arrives: episodes all run to the limit."""
    agents = make_agents(agent, config)
    outcomes = evaluate(agents, partial(TinyRoom, radius=-1.0), config, [], silent, folder)
    return {name: summarize(outcome)["predictor_calls"] for name, outcome in outcomes.items()}


def test_agents_plan_at_equal_compute(agent, tiny_run, tmp_path):
    config = replace(tiny_run.config.evaluation, num_tasks=1, episodes=2, max_steps=30)
    once = measured_calls(agent, config, tmp_path / "once")
    assert set(once) == {"hierarchical", "flat", "flat_landmarks"}
    assert once["hierarchical"] == pytest.approx(agent.config.budget, rel=0.15)
    for name in ("flat", "flat_landmarks"):
        assert once[name] == pytest.approx(once["hierarchical"], rel=0.15)
    twice = measured_calls(agent, replace(config, flat_budget=2), tmp_path / "twice")
    assert twice["hierarchical"] == once["hierarchical"]
    for name in ("flat", "flat_landmarks"):
        assert twice[name] == pytest.approx(2 * once[name], rel=0.1)


def test_an_interrupted_evaluation_goes_on_with_its_next_batch(agent, tiny_run, tmp_path):
    """Killed in a batch: those before it are not run again, and the answer is that of one that never stopped."""
    config = replace(tiny_run.config.evaluation, num_tasks=2, episodes=3, num_envs=2, max_steps=12)
    agents = make_agents(agent, config)

    def outcomes(folder, report=silent):
        RecordingRoom.seen = []
        return evaluate(agents, RecordingRoom, config, [], report, folder)

    def without_times(found):
        told = {name: {**vars(outcome), "plan_ms": None, "traces": None} for name, outcome in found.items()}
        traces = [(t.task, t.success, t.states.tolist(), t.why) for o in found.values() for t in o.traces]
        return told, traces

    whole = outcomes(tmp_path / "whole")
    every = RecordingRoom.seen

    def killed(name, done, won, of):
        if (name, done) == ("flat", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outcomes(tmp_path / "parts", killed)
    before = RecordingRoom.seen
    # what a process that was killed while it wrote has left
    (tmp_path / "parts" / "flat" / "2-0.tmp").write_text('{"task": [')
    again = outcomes(tmp_path / "parts")
    assert without_times(again) == without_times(whole)
    assert 0 < len(RecordingRoom.seen) < len(every)
    assert before + RecordingRoom.seen == every


def test_baselines_share_the_levels(agent, tiny_run):
    agents = make_agents(agent, tiny_run.config.evaluation)
    assert [len(a.hierarchy) for a in agents.values()] == [3, 1, 1]
    assert agents["flat"].hierarchy.levels[0] is agent.hierarchy.levels[0]
    assert agents["flat"].planner.ways is None
    assert agents["flat_landmarks"].planner.ways.landmarks is agent.fitted.graphs[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": [3, 2, 4], "repeat": [2, 1, 1]}, r"evaluation.baselines.odd: planner.repeat\[0\] is 2"),
        ({"horizon": [3]}, r"evaluation.baselines.odd: planner.horizon is \[3\]"),
        ({"horizont": [3]}, r"evaluation.baselines.odd: .*horizont"),
        ({"num_levels": 4}, r"evaluation.baselines.odd: num_levels is 4; expected 1 to 3"),
    ],
)
def test_a_baseline_that_does_not_fit_is_named(agent, tiny_run, changes, message):
    with pytest.raises(ValueError, match=message):
        make_agents(agent, replace(tiny_run.config.evaluation, baselines={"odd": changes}))


def test_evaluation_json(tiny_run):
    written = json.loads((tiny_run.folder / "evaluation.json").read_text())
    assert set(written) == {"identity", "experiment", "seed", "protocol", "planner", "commit", "machine", "agents"}
    assert written["planner"] == json.loads(json.dumps(asdict(tiny_run.config.planner)))
    assert written["experiment"] == "tiny"
    assert written["protocol"] == json.loads(json.dumps(asdict(tiny_run.config.evaluation)))
    assert list(written["agents"]) == ["hierarchical", "flat", "flat_landmarks"]
    for name, numbers in written["agents"].items():
        assert set(numbers) == {
            "success", "interval", "episodes", "per_task", "steps", "plan_ms", "predictor_calls", "other_calls"
        }  # fmt: skip
        per_task = numbers["per_task"]
        assert set(per_task) == {"1", "2"}
        each = 3 if name == "hierarchical" else 2
        assert [rate["episodes"] for rate in per_task.values()] == [each, each]
        assert numbers["episodes"] == 2 * each
        assert numbers["success"] == pytest.approx(sum(rate["success"] for rate in per_task.values()) / 2)
        assert numbers["interval"] == pytest.approx(
            wilson_interval(round(numbers["success"] * numbers["episodes"]), numbers["episodes"])
        )
        assert set(numbers["plan_ms"]) == {"mean", "p50", "p95"}
        assert 0 < numbers["plan_ms"]["p50"] <= numbers["plan_ms"]["p95"]


def test_tries_remember_and_episodes_know_nothing_of_one_another(agent, tiny_run, tmp_path):
    found = []

    class Stuck(TinyRoom):
        """Nothing moves, so that no way leads on; notes what is remembered when an episode begins."""

        def reset(self, *, seed=None, options=None):
            found.append((options["episode"], seed, round(float(learner.experience.added.sum()))))
            return super().reset(seed=seed, options=options)

        def step(self, action):
            return self._observation(), 0.0, False, False, {"success": False}

    learner = agent.with_planner(feedback=5.0, patience=1.0, hops=1)
    config = replace(
        tiny_run.config.evaluation, num_tasks=1, episodes=2, max_steps=30, num_envs=2, tries=2, memory=str(tmp_path)
    )
    outcomes = evaluate({"hierarchical": learner}, Stuck, config, [], silent, tmp_path / "parts")
    assert list(outcomes) == ["hierarchical", "hierarchical, try 2"]
    assert [each[:2] for each in found] == [(e, episode_seed(config.seed + t, 1, e)) for t in (0, 1) for e in (0, 1)]
    first, second, again, other = (remembered for *_, remembered in found)
    assert first == second == 0
    assert again > 0
    assert other > 0
    # another evaluation, in another process it may be, goes on from the folder
    evaluate({"hierarchical": learner}, Stuck, replace(config, episodes=1, tries=1), [], silent, tmp_path / "later")
    assert found[-1][2] > again
    # without one it begins with nothing
    evaluate(
        {"hierarchical": learner},
        Stuck,
        replace(config, episodes=1, tries=1, memory=None),
        [],
        silent,
        tmp_path / "nothing",
    )
    assert found[-1][2] == 0


def test_steps_in_a_forbidden_box_are_counted(agent, tiny_run, tmp_path):
    class Still(TinyRoom):
        def step(self, action):
            return self._observation(), 0.0, False, False, {"success": False}

    config = replace(
        tiny_run.config.evaluation, num_tasks=2, episodes=1, max_steps=4,
        forbidden=Forbidden(low=[0.1, 0.1], high=[0.3, 0.3]), baselines={},
    )  # fmt: skip
    outcome = evaluate(make_agents(agent, config), Still, config, [], silent, tmp_path / "parts")["hierarchical"]
    assert outcome.inside == [4, 4]
    numbers = summarize(outcome)["violations"]
    assert (numbers["share"], numbers["episodes"], numbers["steps"]) == (1, 2, 4)
    elsewhere = replace(config, forbidden=Forbidden(low=[0.6, 0.6], high=[1.0, 1.0]))
    outcome = evaluate(make_agents(agent, elsewhere), Still, elsewhere, [], silent, tmp_path / "elsewhere")[
        "hierarchical"
    ]
    assert summarize(outcome)["violations"]["share"] == 0


def test_agents_that_are_told_of_a_region_need_readouts(agent, tiny_run):
    box = Forbidden(low=[0.0, 0.0], high=[0.1, 0.1], margin=0.1)
    config = replace(tiny_run.config.evaluation, forbidden=box)
    with pytest.raises(ValueError, match=r"where goal.columns were trained with"):
        make_agents(agent, config)
    untold = {name: {**changes, "margin": None} for name, changes in config.baselines.items()}
    make_agents(agent, replace(config, forbidden=replace(box, margin=None), baselines=untold))
    with pytest.raises(ValueError, match=r"evaluation.forbidden.low is \[0.0\], high \[\]; allowed: as many"):
        Forbidden(low=[0.0])


def test_summary():
    outcome = Episodes(
        task=[1, 1, 2, 2], success=[True, False, True, True], steps=[4, 10, 6, 20],
        plan_ms=[1.0, 3.0], planned=[30, 10], predictor_calls=400.0, other_calls=80.0,
    )  # fmt: skip
    numbers = summarize(outcome)
    assert numbers["success"] == 0.75
    assert numbers["per_task"]["1"]["success"] == 0.5
    assert numbers["steps"] == {"mean": 10.0, "median": 6.0}
    assert numbers["plan_ms"]["mean"] == pytest.approx(1.5)
    assert numbers["predictor_calls"] == 10
    assert numbers["other_calls"] == 2
    outcome.success = [False] * 4
    assert summarize(outcome)["steps"] is None


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


def test_traces_from_before_there_were_reasons(tmp_path):
    trace = Trace(1, True, np.zeros((2, 2)), np.zeros(2), [np.zeros((2, 3))], ["because"])
    save_traces(tmp_path / "new.npz", {"flat": Episodes(traces=[trace])})
    with np.load(tmp_path / "new.npz") as file:
        np.savez(tmp_path / "old.npz", **{name: file[name] for name in file if not name.endswith("why")})
    assert load_traces(tmp_path / "old.npz")["flat"][0].why == []


def test_traces_of_the_run(tiny_run):
    traces = load_traces(tiny_run.folder / "evaluation.npz")
    assert {name: [trace.task for trace in found] for name, found in traces.items()} == {
        "hierarchical": [1, 2], "flat": [1, 2], "flat_landmarks": [1, 2]
    }  # fmt: skip
    assert [len(found[0].subgoals) for found in traces.values()] == [3, 1, 1]
    for agent, every in (("hierarchical", 6), ("flat", 10)):
        for trace in traces[agent]:  # one explanation for each plan of the top level
            told = [re.search(r"planned at step (\d+)", text) for text in trace.why]
            assert [int(found[1]) for found in told if found] == list(range(0, len(trace.subgoals[0]), every))
