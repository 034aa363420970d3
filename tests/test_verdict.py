"""The result in plain words: who is better, beyond chance or not, at what compute."""

from __future__ import annotations

import numpy as np
import pytest

from hiwm.analysis.verdict import comparisons, headline


def agent(*tasks, calls=100.0, passes=50.0, steps=80, **more):
    """Numbers of an agent from the outcomes of its episodes, task by task, with so many steps in each."""
    every = np.concatenate([np.array(solved) for solved in tasks])
    return {
        "success": float(every.mean()), "interval": [0.4, 0.6], "episodes": len(every), "predictor_calls": calls, "other_calls": passes,
        "per_task": {
            str(i + 1): {"solved": list(solved), "steps": np.broadcast_to(steps, len(solved)).tolist()}
            for i, solved in enumerate(tasks)
        },
        **more,
    }  # fmt: skip


def verdict(whole, **baselines):
    agents = {"hierarchical": whole, **baselines}
    found = comparisons(agents)
    return found, headline(agents, found)


WON, LOST = [1] * 25, [0] * 25


def test_a_hierarchy_that_beats_some_and_equals_others():
    found, said = verdict(
        agent(WON * 4, WON * 4),
        flat=agent(LOST, WON, calls=104.0, passes=0.0),
        flat_graph=agent(WON * 4, WON * 4, calls=50.0),
    )
    assert [each.verdict for each in found] == ["better", "equal"]
    assert said == (
        "The hierarchy reaches its goal in 200 of 200 episodes (100.0 %, 95 % interval 40 to 60 %), with 100 predictor calls per "
        "environment step. It beats flat; it is as good as flat_graph."
    )
    assert found[0].episodes == 50  # the episodes that both ran
    assert (
        found[0]
        .text()
        .startswith("the hierarchy succeeds 50 percentage points more often in the 50 episodes that both ran")
    )
    assert "beyond chance" in found[0].text()
    assert (
        found[0]
        .text()
        .endswith("It used 1.04 times the predictor calls of the hierarchy and hardly any other forward passes.")
    )
    assert found[1].text().startswith("as good as the hierarchy in the 200 episodes that both ran: a difference of 0 ")
    assert (
        found[1]
        .text()
        .endswith("It used 0.50 times the predictor calls of the hierarchy and 1.00 times its other forward passes.")
    )


def test_a_hierarchy_that_loses():
    found, said = verdict(agent(LOST, WON), flat=agent(WON, WON))
    assert [each.verdict for each in found] == ["worse"]
    assert said.endswith("It loses to flat.")
    assert (
        found[0]
        .text()
        .startswith(
            "the baseline succeeds 50 percentage points more often in the 50 episodes that both ran (95 % interval +50 to +50). "
        )
    )


@pytest.mark.parametrize(("number", "expected"), [(1, "unclear"), (5, "unclear"), (6, "worse")])
def test_a_few_episodes_exclude_no_chance(number, expected):
    found, _ = verdict(agent([0] * number), flat=agent([1] * number))
    assert found[0].verdict == expected


def test_a_difference_that_chance_can_explain():
    found, said = verdict(agent([1, 0, 1, 1, 0, 1]), flat=agent([1, 0, 0, 1, 1, 0]))
    assert [each.verdict for each in found] == ["unclear"]
    assert said.endswith("It shows no clear difference from flat.")
    assert "which chance can explain" in found[0].text()


def test_few_equal_episodes_do_not_make_agents_equal():
    """A bootstrap of equal differences has no spread."""
    found, _ = verdict(agent([1, 1]), flat=agent([1, 1]), other=agent([0, 0]))
    assert [each.verdict for each in found] == ["unclear", "unclear"]
    assert found[0].high == pytest.approx(0.658, abs=1e-3)
    assert (found[1].low, found[1].high) == (pytest.approx(0.342, abs=1e-3), 1)


def test_pairs_are_episodes_of_one_number():
    """Both succeed in half of the episodes: in the same ones, the difference is 0 everywhere; in others, it varies."""
    half = [1, 0] * 50
    same, _ = verdict(agent(half), flat=agent(half))
    other, _ = verdict(agent(half), flat=agent(half[::-1]))
    assert same[0].difference == other[0].difference == 0
    assert (same[0].verdict, other[0].verdict) == ("equal", "unclear")


def test_steps_are_those_of_episodes_that_both_solve():
    found, said = verdict(
        agent([1, 1, 0] * 20, steps=[100, 60, 9] * 20), flat=agent([1, 0, 1] * 20, steps=[50, 7, 7] * 20)
    )
    assert (found[0].both, found[0].steps, found[0].baseline_steps) == (20, 100, 50)
    assert "Where both succeed (20 episodes), the baseline takes 50 steps and the hierarchy 100." in found[0].text()
    assert said.endswith("from flat; it takes 2.0 times as many steps as flat where both succeed.")


def test_steps_without_a_common_success():
    found, said = verdict(agent([1, 0] * 20), flat=agent([0, 1] * 20))
    assert found[0].both == 0
    assert not found[0].longer
    assert "steps" not in found[0].text() + said.replace("environment step.", "")


def test_the_headline_counts_reached_subgoals():
    """A hierarchy that succeeds and reaches no subgoal owes its success to something else."""
    subgoals = {
        "level1": {"reached": 1, "unreached": 2, "unreachable": 1},
        "level2": {"reached": 0, "unreached": 0, "unreachable": 0},
    }
    _, said = verdict(agent(WON, subgoals=subgoals), flat=agent(LOST))
    assert said.endswith("It beats flat. It reaches 25 % of the subgoals of level 1.")


def test_attempts_are_compared_with_each_other():
    agents = {
        "hierarchical": agent(LOST),
        "hierarchical, attempt 2": agent(WON),
        "flat": agent(LOST),
        "flat, attempt 2": agent(LOST),
    }
    assert [(each.baseline, each.verdict) for each in comparisons(agents)] == [
        ("flat", "unclear"),
        ("flat, attempt 2", "better"),
    ]


def test_without_success_or_without_baselines():
    assert (
        verdict(agent(LOST), flat=agent(LOST))[1]
        == "No agent reached a goal, so this evaluation cannot rank the agents."
    )
    assert "No baseline was evaluated" in verdict(agent(WON))[1]
