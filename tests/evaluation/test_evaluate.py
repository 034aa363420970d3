from __future__ import annotations

import itertools
import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from tiny import TinyRoom, replaced

from hiwm.evaluation.batches import Batches
from hiwm.evaluation.episodes import _EdgeMemoryFile, episode_seed, run_episodes
from hiwm.evaluation.evaluate import evaluate, make_agents, summarize
from hiwm.evaluation.outcomes import Episodes
from hiwm.evaluation.statistics import wilson_interval
from hiwm.evaluation.traces import load_traces
from hiwm.planning.targets import DirectNavigator
from hiwm.tensors import load_tensors


class RecordingRoom(TinyRoom):
    """Records every start and goal."""

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
    return list(dict.fromkeys(RecordingRoom.seen))  # without the surplus copies of a batch


def test_starts_and_goals_depend_on_seed_task_and_episode_only(agent):
    one = starts_and_goals(agent, num_envs=1)
    assert len(one) == 6
    assert one == starts_and_goals(agent, num_envs=2)
    assert one == starts_and_goals(agent, num_envs=50)
    assert {(task, seed) for task, seed, *_ in one} == {(t, episode_seed(0, t, e)) for t in (1, 2) for e in range(3)}
    # a longer evaluation begins with the same episodes
    more = starts_and_goals(agent, num_envs=2, episodes=4)
    assert set(one) < set(more)
    assert not set(one) & set(starts_and_goals(agent, num_envs=2, seed=1))


def test_no_two_episodes_share_a_seed():
    episodes = list(itertools.product(range(3), range(1, 4), range(4)))
    assert len({episode_seed(*episode) for episode in episodes}) == len(episodes)


def test_starts_and_goals_stay_the_same_between_versions():
    assert [episode_seed(*episode) for episode in ((0, 1, 0), (0, 2, 0), (1, 1, 7))] == [
        3964924996,
        3141116543,
        706327611,
    ]


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
    assert [trace.task for trace in outcome.traces if trace.episode == 0] == [1, 2]
    room = TinyRoom()
    for trace in outcome.traces:
        start, info = room.reset(seed=episode_seed(0, trace.task, trace.episode), options={"task_id": trace.task})
        np.testing.assert_array_equal(trace.states[0], start)
        np.testing.assert_array_equal(trace.goal, info["goal"])
        assert trace.states.shape == (3, 2)
        assert [subgoals.shape for subgoals in trace.subgoals] == [(3, 2), (3, 4), (3, 4)]


def measured_calls(agent, config, folder):
    """Predictor calls per environment step, in a room without success, so that all episodes run to the limit."""
    agents = make_agents(agent, config)
    outcomes = evaluate(agents, partial(TinyRoom, radius=-1.0), config, [], silent, folder)
    return {name: summarize(outcome)["predictor_calls"] for name, outcome in outcomes.items()}


def test_agents_plan_at_equal_compute(agent, tiny_run, tmp_path):
    config = replaced(tiny_run.config.evaluation, num_tasks=1, episodes=2, max_steps=30)
    once = measured_calls(agent, config, tmp_path / "once")
    assert set(once) == {"hierarchical", "flat", "flat_graph"}
    assert once["hierarchical"] == pytest.approx(agent.config.budget, rel=0.15)
    for name in ("flat", "flat_graph"):
        assert once[name] == pytest.approx(once["hierarchical"], rel=0.15)
    twice = measured_calls(agent, replaced(config, baseline_budget=2), tmp_path / "twice")
    assert twice["hierarchical"] == once["hierarchical"]
    for name in ("flat", "flat_graph"):
        assert twice[name] == pytest.approx(2 * once[name], rel=0.1)


def test_an_interrupted_evaluation_continues_with_its_next_batch(agent, tiny_run, tmp_path):
    """Finished batches are not run again, and the result equals that of an uninterrupted evaluation."""
    config = replaced(tiny_run.config.evaluation, num_tasks=2, episodes=3, num_envs=2, max_steps=12)
    agents = make_agents(agent, config)

    def outcomes(folder, report=silent):
        RecordingRoom.seen = []
        return evaluate(agents, RecordingRoom, config, [], report, folder)

    def without_times(found):
        numbers = {name: {**vars(outcome), "plan_ms": None, "traces": None} for name, outcome in found.items()}
        traces = [
            (t.task, t.episode, t.success, t.states.tolist(), [level.why for level in t.levels])
            for o in found.values()
            for t in o.traces
        ]
        return numbers, traces

    whole = outcomes(tmp_path / "whole")
    every = RecordingRoom.seen

    def killed(name, done, won, of):
        if (name, done) == ("flat", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outcomes(tmp_path / "parts", killed)
    before = RecordingRoom.seen
    # a process killed while it wrote leaves this
    (tmp_path / "parts" / "flat" / "2-0.tmp").write_text('{"task": [')
    again = outcomes(tmp_path / "parts")
    assert without_times(again) == without_times(whole)
    assert 0 < len(RecordingRoom.seen) < len(every)
    assert before + RecordingRoom.seen == every


def test_baselines_share_the_levels(agent, tiny_run):
    agents = make_agents(agent, tiny_run.config.evaluation)
    assert [len(a.hierarchy) for a in agents.values()] == [3, 1, 1]
    assert agents["flat"].hierarchy.levels[0] is agent.hierarchy.levels[0]
    assert isinstance(agents["flat"].planner.navigator, DirectNavigator)
    assert agents["flat_graph"].planner.navigator.graph is agent.graphs[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"level0": {"horizon": 3, "action_repeat": 2}},
            r"evaluation.baselines.odd: planner.level0.action_repeat is 2",
        ),
        ({"level0": {"horizon": 2}}, r"evaluation.baselines.odd: planner.level0.replan is 3"),
        ({"horizont": [3]}, r"evaluation.baselines.odd: .*horizont"),
        ({"num_levels": 4}, r"evaluation.baselines.odd: num_levels is 4; expected 1 to 3"),
    ],
)
def test_a_baseline_that_does_not_fit_is_named(agent, tiny_run, changes, message):
    with pytest.raises(ValueError, match=message):
        make_agents(agent, replaced(tiny_run.config.evaluation, baselines={"odd": changes}))


def test_evaluation_json(tiny_run):
    written = json.loads((tiny_run.folder / "evaluation.json").read_text())
    assert set(written) == {
        "identity",
        "experiment",
        "seed",
        "protocol",
        "planner",
        "commit",
        "machine",
        "agents",
        "sha256",
    }
    assert written["planner"] == json.loads(json.dumps(tiny_run.config.planner.as_dict()))
    assert written["experiment"] == "tiny"
    assert written["protocol"] == json.loads(json.dumps(tiny_run.config.evaluation.as_dict()))
    assert list(written["agents"]) == ["hierarchical", "flat", "flat_graph"]
    for name, numbers in written["agents"].items():
        assert set(numbers) == {
            "success", "interval", "episodes", "per_task", "steps", "plan_ms", "predictor_calls", "other_calls"
        } | ({"subgoals"} if name == "hierarchical" else set())  # fmt: skip
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


@pytest.mark.parametrize("killed_before", ["save", "commit"])
@pytest.mark.parametrize("at", [0, 1])  # in the first or the second attempt
def test_an_edge_memory_is_the_same_after_an_interruption(agent, tiny_run, tmp_path, monkeypatch, killed_before, at):
    class Stuck(TinyRoom):
        def step(self, action):
            return self._observation(), 0.0, False, False, {"success": False}

    learner = agent.with_planner(failure_penalty=5.0, patience=1.0, hops=1)
    config = replaced(tiny_run.config.evaluation, num_tasks=1, episodes=1, max_steps=30, attempts=2, edge_memory=None)

    def files(folder):
        return sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))

    evaluate({"hierarchical": learner}, Stuck, config, [], silent, tmp_path / "whole")
    calls = []
    owner, method = (Batches, "save") if killed_before == "save" else (_EdgeMemoryFile, "commit")
    original = getattr(owner, method)

    def stops(self, *arguments):
        calls.append(1)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        original(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(owner, method, stops)
        evaluate({"hierarchical": learner}, Stuck, config, [], silent, tmp_path / "cut")
    evaluate({"hierarchical": learner}, Stuck, config, [], silent, tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    for file in files(tmp_path / "whole"):
        one, other = (load_tensors(tmp_path / folder / file) for folder in ("whole", "cut"))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_attempts_share_an_edge_memory_and_episodes_do_not(agent, tiny_run, tmp_path):
    found = []

    class Stuck(TinyRoom):
        """Nothing moves, so every path fails; records the edge memory at the start of an episode."""

        def reset(self, *, seed=None, options=None):
            found.append((options["episode"], seed, round(float(learner.edge_memory.added.sum()))))
            return super().reset(seed=seed, options=options)

        def step(self, action):
            return self._observation(), 0.0, False, False, {"success": False}

    learner = agent.with_planner(failure_penalty=5.0, patience=1.0, hops=1)
    config = replaced(
        tiny_run.config.evaluation,
        num_tasks=1,
        episodes=2,
        max_steps=30,
        num_envs=2,
        attempts=2,
        edge_memory=str(tmp_path),
    )
    outcomes = evaluate({"hierarchical": learner}, Stuck, config, [], silent, tmp_path / "parts")
    assert list(outcomes) == ["hierarchical", "hierarchical, attempt 2"]
    assert [each[:2] for each in found] == [(e, episode_seed(config.seed + t, 1, e)) for t in (0, 1) for e in (0, 1)]
    first, second, again, other = (added for *_, added in found)
    assert first == second == 0
    assert again > 0
    assert other > 0
    # another evaluation, perhaps in another process, continues from the folder
    evaluate({"hierarchical": learner}, Stuck, replaced(config, episodes=1, attempts=1), [], silent, tmp_path / "later")
    assert found[-1][2] > again
    # without a folder it starts with nothing
    evaluate(
        {"hierarchical": learner},
        Stuck,
        replaced(config, episodes=1, attempts=1, edge_memory=None),
        [],
        silent,
        tmp_path / "nothing",
    )
    assert found[-1][2] == 0


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


def test_subgoals_of_all_batches_add_up():
    outcome = Episodes(
        task=[1, 1], success=[True, False], steps=[5, 9], plan_ms=[1.0], planned=[2],
        subgoals=[{"level1": [3, 1, 0, 30, 1.0], "level2": [0, 2, 0, 0, 1.5]}, {"level1": [1, 0, 1, 2, 0.5], "level2": [0, 0, 0, 0, 0]}],
    )  # fmt: skip
    found = summarize(outcome)["subgoals"]
    assert found["level1"] == {"reached": 4, "unreached": 1, "unreachable": 1, "steps": 8, "distance_left": 0.25}
    assert found["level2"] == {"reached": 0, "unreached": 2, "unreachable": 0, "steps": None, "distance_left": 0.75}


def test_subgoals_of_the_run(tiny_run):
    agents = json.loads((tiny_run.folder / "evaluation.json").read_text())["agents"]
    assert agents["hierarchical"]["subgoals"].keys() == {"level1", "level2"}
    assert (
        agents["hierarchical"]["subgoals"]["level1"]["reached"] > 0
    )  # level 2 is trained too little to reach any for sure
    for numbers in agents["hierarchical"]["subgoals"].values():
        assert numbers["reached"] + numbers["unreached"] + numbers["unreachable"] > 0
        assert (0 < numbers["steps"] <= 60) if numbers["reached"] else numbers["steps"] is None
        assert 0 < numbers["distance_left"] < 2
    assert "subgoals" not in agents["flat"]


def test_traces_of_the_run(tiny_run):
    traces = load_traces(tiny_run.folder / "evaluation.npz")
    assert {name: [trace.task for trace in found if trace.episode == 0] for name, found in traces.items()} == {
        "hierarchical": [1, 2], "flat": [1, 2], "flat_graph": [1, 2]
    }  # fmt: skip
    assert [len(found[0].subgoals) for found in traces.values()] == [3, 1, 1]
    for agent, every in (("hierarchical", 6), ("flat", 10)):
        for trace in traces[agent]:  # one explanation for each plan of the top level
            top = trace.levels[-1]
            matches = [re.search(r"planned at step (\d+)", text) for text in top.why]
            steps = list(range(0, trace.steps, every))
            assert [int(found[1]) for found in matches if found] == top.plans["step"].tolist() == steps
