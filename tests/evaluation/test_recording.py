"""What is recorded of an episode is what the agent planned, and the right episodes are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TinyRoom

from hiwm.evaluation import recording
from hiwm.evaluation.episodes import episode_seed, run_episodes
from hiwm.evaluation.frames import as_frames, image_input
from hiwm.evaluation.recording import Recorder, level_trace
from hiwm.planning.explain.outcome import OPEN, REACHED, UNREACHABLE

FIELDS = (
    "target",
    "subgoal",
    "current_cost",
    "actions",
    "predicted",
    "nearest",
    "cost",
    "disagreement",
    "penalty",
    "value",
)


def run(agent, env=TinyRoom, num_envs=3, episodes=3, max_steps=25, num_tasks=1):
    return run_episodes(
        agent, env, num_tasks=num_tasks, episodes=episodes, max_steps=max_steps, num_envs=num_envs, seed=0, state=[],
        report=lambda *_: None,
    )  # fmt: skip


class Spy:
    """Keeps every plan of an agent with the episodes that it is for.

    Args:
        agent: whose calls are watched.
        monkeypatch: replaces its methods.
        size: number of episodes.
    """

    def __init__(self, agent, monkeypatch, size):
        self.plans, self.rows = [], np.arange(size)
        act, select = agent.act, agent.select

        def acts(observation):
            action = act(observation)
            self.plans.append((self.rows, agent.plan))
            return action

        def selects(mask):
            self.rows = self.rows[mask]
            select(mask)

        monkeypatch.setattr(agent, "act", acts)
        monkeypatch.setattr(agent, "select", selects)


@pytest.mark.parametrize(
    "changes", [{}, {"failure_penalty": 2.0, "patience": 1.0, "graph": "none", "level1": {"goal_weight": 0.5}}]
)
def test_recorded_plans_are_those_of_the_agent(agent, monkeypatch, changes):
    agent = agent.with_planner(**changes)
    spy = Spy(agent, monkeypatch, 3)
    first, *rest = run(agent).traces
    assert first.episode == 0
    for trace in [first, *rest]:
        counts = [0, 0, 0]
        for step in range(trace.steps):
            rows, plan = spy.plans[step]
            row = int(np.flatnonzero(rows == trace.episode)[0])
            assert trace.explain(step) == plan.explain(row)
            np.testing.assert_array_equal(trace.actions[step], plan.action[row])
            for k, level in enumerate(plan.levels):
                kept = trace.levels[k]
                np.testing.assert_array_equal(trace.subgoals[k][step], level.subgoal[row])
                if level.planned_at != step:
                    continue
                i = counts[k]
                counts[k] += 1
                assert kept.plans["step"][i] == step
                assert kept.why[i] == level.explain(row)
                for name in FIELDS:
                    value = getattr(level, name)
                    if value is not None:
                        np.testing.assert_array_equal(kept.plans[name][i], value[row])
                if level.alternatives is not None:
                    np.testing.assert_array_equal(kept.plans["alternative_cost"][i], level.alternatives.cost[row])
                    np.testing.assert_array_equal(kept.plans["alternative_subgoal"][i], level.alternatives.subgoal[row])
                if level.path is not None:
                    path = kept.plans["path"][i]
                    assert path[path >= 0].tolist() == level.path.nodes(row)
        assert counts == [len(level.plans["step"]) for level in trace.levels]
        assert min(counts) > 1


def test_the_parts_of_a_cost_add_up_to_it(agent):
    agent = agent.with_planner(failure_penalty=2.0, patience=1.0, graph="none", level1={"goal_weight": 0.5})

    class Stuck(TinyRoom):
        def step(self, action):
            return self._observation(), 0.0, False, False, {"success": False}

    (trace,) = run(agent, Stuck, episodes=1).traces
    names = [level.parts for level in trace.levels]
    assert names == [["target"], ["target", "goal", "failed before"], ["target", "failed before"]]
    for level in trace.levels:
        plans = level.plans
        cheapest = plans["parts"][np.arange(len(plans["step"])), :, plans["cheapest"]]
        np.testing.assert_allclose(np.nansum(cheapest, 1), plans["cost"], rtol=1e-4, atol=1e-5)
        if "penalty" in plans:
            last = cheapest[:, -1]
            np.testing.assert_allclose(last[~np.isnan(last)], plans["penalty"][~np.isnan(plans["penalty"])], rtol=1e-5)
            assert (last > 0).any()


class Lucky(TinyRoom):
    """Succeeds on the third step in about half of its episodes, never in the others; never moves."""

    def reset(self, **options):
        self.count = 0
        return super().reset(**options)

    @property
    def lucky(self):
        return bool(self.position.sum() * 100 % 2 < 1)

    def step(self, action):
        self.count += 1
        over = self.lucky and self.count == 3
        return self._observation(), 0.0, over, False, {"success": over}


@pytest.mark.parametrize("num_envs", [1, 2, 4, 12])
def test_the_first_episode_and_the_first_failure_are_recorded(agent, num_envs):
    room, lucky = Lucky(), {}
    for task in (1, 2):
        lucky[task] = []
        for e in range(12):
            room.reset(seed=episode_seed(0, task, e), options={"task_id": task})
            lucky[task].append(room.lucky)
    assert all(0 < sum(of_task) < 12 for of_task in lucky.values())
    outcome = run(agent, Lucky, num_envs=num_envs, episodes=12, max_steps=7, num_tasks=2)
    expected = [(task, e) for task in (1, 2) for e in sorted({0, lucky[task].index(False)})]
    assert [(trace.task, trace.episode) for trace in outcome.traces] == expected
    for trace in outcome.traces:
        assert trace.success == lucky[trace.task][trace.episode]
        assert trace.steps == (3 if trace.success else 7)
        assert len(trace.states) == trace.steps + trace.success  # and the state that reached the goal
        start, info = room.reset(seed=episode_seed(0, trace.task, trace.episode), options={"task_id": trace.task})
        np.testing.assert_array_equal(trace.states[0], start)
        np.testing.assert_array_equal(trace.goal, info["goal"])


def test_realised_latents_are_those_of_the_observations(agent):
    (trace, *_) = run(agent).traces
    states = torch.from_numpy(trace.states)
    for level, latents in zip(trace.levels, agent.hierarchy.encode({"state": states}), strict=True):
        np.testing.assert_allclose(level.latents, latents[: len(trace.seen)], rtol=1e-5, atol=1e-6)
    assert trace.seen.tolist() == list(range(len(trace.states)))


def test_a_full_memory_forgets_successes_first_and_never_the_first_episode(agent, monkeypatch):
    whole = run(agent, Lucky, num_envs=12, episodes=12, max_steps=7).traces
    original, recorders = Recorder.__init__, []

    def limited_to(most_bytes):
        def small(self, *arguments):
            original(self, *arguments, most_bytes=most_bytes)
            recorders.append(self)

        return small

    monkeypatch.setattr(Recorder, "__init__", limited_to(10**9))
    run(agent, Lucky, num_envs=12, episodes=12, max_steps=7)
    most = int(0.8 * recorders[-1].bytes)
    for limit, kept in ((most, [each.episode for each in whole]), (100, [0])):
        monkeypatch.setattr(Recorder, "__init__", limited_to(limit))
        found = run(agent, Lucky, num_envs=12, episodes=12, max_steps=7).traces
        assert [trace.episode for trace in found] == kept
        assert 0 < recorders[-1].kept.sum() < 12
        assert found[0].explain(0) == whole[0].explain(0)
    assert recorders[1].bytes <= most


def test_outcomes_follow_the_rule_of_the_monitor(agent, monkeypatch):
    """What is computed afterwards equals what the plans say, wherever they say it."""
    agent = agent.with_planner(graph="none", patience=1.0)
    kept = []
    original = recording.level_trace

    def spied(agent, k, plans, seen, latents):
        kept.append((k, plans, seen, latents))
        return original(agent, k, plans, seen, latents)

    monkeypatch.setattr(recording, "level_trace", spied)
    run(agent, max_steps=60)
    compared = set()
    for k, plans, seen, latents in kept:
        if k == 0:
            continue
        own = level_trace(agent, k, [replace(plan, outcome=None) for plan in plans], seen, latents)
        said = level_trace(agent, k, plans, seen, latents)
        for plan in plans:
            if plan.outcome is None or int(plan.outcome.outcome[0]) in (OPEN, UNREACHABLE):
                continue
            i = [int(each.planned_at) for each in plans].index(int(plan.outcome.planned_at[0]))
            assert own.plans["outcome"][i] == said.plans["outcome"][i] == int(plan.outcome.outcome[0])
            assert own.plans["left"][i] == pytest.approx(said.plans["left"][i], rel=1e-3, abs=1e-4)
            compared.add(int(said.plans["outcome"][i]))
    assert REACHED in compared
    assert len(kept) >= 3


def test_images_become_frames():
    assert image_input({"state": (4,), "pixels": (64, 64, 3)}) == "pixels"
    assert image_input({"grey": (20, 30)}) == "grey"
    assert image_input({"first": (3, 20, 30)}) == "first"
    assert image_input({"symbols": (7, 7, 3), "matrix": (4, 4), "stack": (9, 9, 9)}) is None
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 200, 100, 3), dtype=np.uint8)
    np.testing.assert_array_equal(as_frames(images), images[:, ::3, ::3])
    np.testing.assert_array_equal(as_frames(images.transpose(0, 3, 1, 2)), images[:, ::3, ::3])
    np.testing.assert_allclose(as_frames(images / 255.0), images[:, ::3, ::3], atol=1)
    assert as_frames(images[..., 0]).shape == (2, 67, 34, 1)
