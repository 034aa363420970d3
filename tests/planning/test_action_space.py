from __future__ import annotations

import torch
from planning_tools import HIGH, LOW

from hiwm.planning.action_space import ActionSpace

SPACE = ActionSpace(2, 2, LOW, HIGH)


def test_choices_of_an_earlier_plan_are_shifted_to_the_present():
    # two choices, each held for two steps
    choices = torch.tensor([[[1.0, 10], [2, 20]], [[3, 30], [4, 40]]]).unsqueeze(0)  # (1, 2, 2, 2)
    mean = torch.tensor([[[0.0, 0], [8, 80]]])
    assert SPACE.shifted(choices, 2, 0, mean) is choices
    assert SPACE.shifted(choices, 2, 1, mean)[..., 0].tolist() == [[[1.5, 5], [3.5, 6]]]
    assert SPACE.shifted(choices, 2, 2, mean)[..., 1].tolist() == [[[20, 80], [40, 80]]]
    assert SPACE.shifted(choices, 2, 3, mean)[..., 0].tolist() == [[[1, 8], [2, 8]]]
    for steps in (4, 9):
        assert torch.equal(SPACE.shifted(choices, 2, steps, mean), mean.unsqueeze(1).expand(1, 2, 2, 2))


def test_a_chunk_holds_several_choices():
    """Three actions of two primitive ones each, chosen two primitive actions at a time."""
    space = ActionSpace(4, 2, LOW, HIGH)
    choices = torch.arange(6.0).reshape(1, 3, 2)
    actions = space.expand(choices, 2)
    assert actions.tolist() == [[[0, 1, 0, 1], [2, 3, 2, 3], [4, 5, 4, 5]]]
    assert torch.equal(space.choices(actions, 2), choices)
    # of actions that are not held, a choice is the mean
    assert space.choices(torch.tensor([[[0.0, 2, 4, 6]]]), 2).tolist() == [[[2, 4]]]
    assert space.expand(choices.unsqueeze(1), 2).shape == (1, 1, 3, 4)


def test_actions_are_clamped_choice_by_choice():
    space = ActionSpace(4, 2, torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 2.0]))
    assert space.clamp(torch.tensor([[-5.0, -5, 5, 5]])).tolist() == [[-1, 0, 1, 2]]
    assert space.bounded(LOW / 2, HIGH / 2).clamp(torch.tensor([[-5.0, -5, 5, 5]])).tolist() == [[-0.5, -0.5, 0.5, 0.5]]


def test_a_discrete_action_becomes_the_likeliest_option():
    space = ActionSpace(6, 3, torch.zeros(3), torch.ones(3), discrete=True)
    assert space.clamp(torch.tensor([[0.1, 0.7, 0.2, 0.5, 0.1, 0.4]])).tolist() == [[0, 1, 0, 1, 0, 0]]
