"""On a line of landmarks, 0 to 9, a step apart."""

import pytest
import torch
from test_experience import line

from hiwm.planning.goals import ObservationGoal
from hiwm.planning.wayfinder import Wayfinder

GRAPH = line(10)


def latents(*places):
    return torch.tensor([[float(place)] for place in places])


@pytest.fixture
def finder():
    return Wayfinder(GRAPH, level=0, hops=1, feedback=10.0, patience=2.0)


def walk(finder, places, steps):
    """Aims of episodes that are at these places, each a list, at steps 0, 3, ... of an edge each"""
    return [
        finder.next(latents(*here), step).latent[:, 0].tolist()
        for here, step in zip(places, range(0, steps, GRAPH.edge_steps), strict=True)
    ]


def test_aims_lie_on_the_way(finder):
    finder.start(ObservationGoal([latents(9, 0)]))
    assert walk(finder, [(2, 5), (3, 4)], 6) == [[3, 4], [4, 3]]


def test_who_does_not_come_on_blames_the_way_and_who_gets_through_clears_it(finder):
    finder.start(ObservationGoal([latents(9)]))
    walk(finder, [(2,)] * 4, 12)  # patience: two edges' time
    added = finder.experience.added
    assert (added > 0).any()
    blamed = (finder.experience.edges[0] == 2) & (finder.experience.edges[1] == 3)
    assert added[blamed] == 10
    finder.next(latents(3), 12)
    assert finder.experience.added[blamed] == 0
    assert finder.experience.added.sum() == added.sum() - 10


def test_episodes_that_go_on_keep_what_is_theirs(finder):
    goal = ObservationGoal([latents(9, 9, 9)])
    finder.start(goal)
    walk(finder, [(0, 5, 2), (1, 6, 2)], 6)
    rows = torch.tensor([0, 2])
    finder.keep(rows, goal.keep(rows))
    assert finder.least.tolist() == [8, 7]
    assert finder.since.tolist() == [3, 0]
    assert [landmark.tolist() for _, landmark in finder.past] == [[0, 2], [1, 2]]
    assert walk(finder, [(2, 2)], 3) == [[3, 3]]
