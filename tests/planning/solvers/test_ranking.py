"""The better of two candidates, and the best of all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from planning_tools import noise
from solver_tools import SAMPLES, gaussian, generator, spied

from hiwm.planning.solvers.random_shooting import RandomShooting
from hiwm.planning.solvers.solver import Scores, Solution, best_of, better


def test_candidates_are_ranked_by_the_rules_of_deb():
    """Feasible candidates by their cost, then the others by their violation alone."""
    cost = torch.tensor([[3.0, 1.0, -9.0, -5.0, 2.0], [0.0, 1.0, 2.0, 3.0, 4.0]])
    first = torch.tensor([[-1.0, 0.0, 2.0, 0.5, -3.0], [1.0, 0.3, 0.2, 4.0, 9.0]])
    scores = Scores(cost, torch.stack([first, torch.full_like(first, -1.0)], -1))
    assert scores.order(5).tolist() == [[1, 4, 0, 3, 2], [2, 1, 0, 3, 4]]
    assert scores.penalised()[0].tolist() == [3.0, 1.0, 5.0, 3.5, 2.0]
    torch.testing.assert_close(scores.penalised()[1], first[1])
    assert Scores(cost).penalised() is cost


def solution(cost, violation=None):
    """One environment for each cost; the actions are the cost and its place, to tell equal ones apart."""
    cost = torch.tensor(cost)
    actions = torch.stack([cost, torch.rand(len(cost), generator=generator(len(cost)))], 1).unsqueeze(1)
    return Solution(actions, cost, None if violation is None else torch.tensor(violation), actions.unsqueeze(1))


def test_the_better_of_two_solutions():
    old, new = solution([1.0, 2.0, 3.0]), solution([2.0, 1.0, 3.0])
    new = replace(new, actions=new.actions + 0.5)
    found = better(old, new)
    assert found.cost.tolist() == [1, 1, 3]
    # the old one if they are equal
    assert torch.equal(found.actions, torch.stack([old.actions[0], new.actions[1], old.actions[2]]))
    assert torch.equal(found.kept, found.actions.unsqueeze(1))
    assert better(None, new) is new


def test_the_better_of_two_solutions_has_the_least_violation_then_the_least_cost():
    old = solution([1.0, 1.0, 1.0, 1.0, 1.0], [[0.5, 0.0], [0.2, 0.2], [-1.0, -1.0], [-1.0, -1.0], [0.3, -9.0]])
    new = solution([9.0, 0.0, 2.0, 0.0, 1.0], [[0.1, 0.2], [0.5, -1.0], [-9.0, 0.0], [0.0, -5.0], [-9.0, 0.3]])
    new = replace(new, actions=new.actions + 0.5)
    found = better(old, new)
    wins = [True, False, False, True, False]  # less violation; more; equal and a higher, a lower, the same cost
    assert found.cost.tolist() == [9, 1, 1, 0, 1]
    for field in ("actions", "violation"):
        chosen = [getattr(new if win else old, field)[i] for i, win in enumerate(wins)]
        assert torch.equal(getattr(found, field), torch.stack(chosen))


@pytest.mark.parametrize("constrained", [False, True])
def test_the_first_of_equally_good_candidates_is_the_result(constrained):
    """Over all rounds: a plan must not change with the rounds if nothing better was found."""
    seen = []

    def flat(candidates):
        violation = candidates.new_full((*candidates.shape[:2], 1), 0.25) if constrained else None
        return Scores(candidates.new_ones(candidates.shape[:2]), violation)

    found = RandomShooting(iterations=3).solve(spied(flat, seen), gaussian(), SAMPLES, noise())
    first, *later = seen
    assert (first == found.actions.unsqueeze(1)).all((2, 3)).any(1).all()
    for candidates in later:
        assert not (candidates[:, 1:] == found.actions.unsqueeze(1)).all((2, 3)).any()


def test_the_least_violation_wins_even_if_it_costs_inf():
    scores = Scores(torch.tensor([[1.0, torch.inf, 2.0]]), torch.tensor([[[3.0], [1.0], [2.0]]]))
    found = best_of(torch.arange(3.0).reshape(1, 3, 1, 1), scores, scores.order(1))
    assert found.actions.item() == 1
