"""On a line of nodes, 0 to 9, a step apart."""

import pytest
import torch
from test_edge_memory import line
from torch_geometric.data import Data

from hiwm.planning.goals import ObservationGoal
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.planning.graph.navigator import GraphNavigator

GRAPH = line(10)


def latents(*places):
    return torch.tensor([[float(place)] for place in places])


@pytest.fixture
def navigator():
    return GraphNavigator(GRAPH, level=0, hops=1, failure_penalty=10.0, patience=2.0)


def walk(navigator, places, steps):
    """Targets of episodes that are at these places, each a list, at steps 0, 3, ... of an edge each"""
    return [
        navigator.target(latents(*here), step).latent[:, 0].tolist()
        for here, step in zip(places, range(0, steps, GRAPH.edge_steps), strict=True)
    ]


def test_targets_lie_on_the_path(navigator):
    navigator.start(ObservationGoal([latents(9, 0)]))
    assert walk(navigator, [(2, 5), (3, 4)], 6) == [[3, 4], [4, 3]]


def test_an_episode_without_progress_blames_the_edge_and_one_that_crosses_it_clears_it(navigator):
    navigator.start(ObservationGoal([latents(9)]))
    walk(navigator, [(2,)] * 4, 12)  # patience: two edges' time
    added = navigator.edge_memory.added
    assert (added > 0).any()
    blamed = (navigator.edge_memory.edges[0] == 2) & (navigator.edge_memory.edges[1] == 3)
    assert added[blamed] == 10
    navigator.target(latents(3), 12)
    assert navigator.edge_memory.added[blamed] == 0
    assert navigator.edge_memory.added.sum() == added.sum() - 10


@pytest.mark.parametrize("interval", [1, 2, 3, 5])  # an edge takes three steps
def test_crossed_edges_are_found_whatever_the_interval_between_plans(navigator, interval):
    navigator.start(ObservationGoal([latents(9)]))
    navigator.edge_memory.added[:] = 1.0
    for step in range(0, 30, interval):
        navigator.target(latents(step / GRAPH.edge_steps), step)
    assert (navigator.edge_memory.added == 0).any() == (interval <= GRAPH.edge_steps)
    known = navigator.edge_memory.edges[:, : GRAPH.edges.shape[1]]
    assert torch.equal(known, GRAPH.edges)
    assert ((navigator.edge_memory.edges[1] - navigator.edge_memory.edges[0]).abs() == 1).all()  # none of several edges


def test_progress_of_one_episode_survives_the_failure_of_another(navigator):
    navigator.start(ObservationGoal([latents(9, 9)]))
    walk(navigator, [(2, 6), (2, 7), (2, 8)], 9)
    before = navigator.lowest_cost.clone()
    navigator.target(latents(2, 7), 9)  # the first fails; the second went back, and its cost to go is as before
    assert navigator.edge_memory.added.any()
    assert navigator.lowest_cost[0] > before[0]
    assert navigator.lowest_cost[1] == before[1] == 1


def test_an_episode_without_a_path_says_so():
    at, edges = latents(0, 1, 5, 6), torch.tensor([[0, 2], [1, 3]])
    graph = LandmarkGraph(Data(x=at, edge_index=edges, edge_attr=torch.ones(2)), edge_steps=3)
    navigator = GraphNavigator(graph, level=0, hops=1, failure_penalty=0.0, patience=2.0)
    navigator.start(ObservationGoal([latents(6, 6)]))
    path = navigator.target(latents(0.2, 4.8), 0).path
    assert path.current_node.tolist() == [2, 2]
    assert path.cut_off.tolist() == [True, False]
    assert "no path leads from the nearest landmark to the goal" in path.text(0)
    assert "no path" not in path.text(1)


def test_selected_episodes_keep_what_is_theirs(navigator):
    goal = ObservationGoal([latents(9, 9, 9)])
    navigator.start(goal)
    walk(navigator, [(0, 5, 2), (1, 6, 2)], 6)
    rows = torch.tensor([0, 2])
    navigator.select(rows, goal.select(rows))
    assert navigator.lowest_cost.tolist() == [8, 7]
    assert navigator.progress_step.tolist() == [3, 0]
    assert [node.tolist() for _, node in navigator.visited] == [[0, 2], [1, 2]]
    assert walk(navigator, [(2, 2)], 3) == [[3, 3]]


def test_a_near_target_counts_as_reached_only_if_it_is_nearer_to_the_goal():
    """An episode that overshoots its target but is still within half an edge of it does not turn back."""
    at = latents(0, 1, 1.4, 2.4)
    edges = torch.tensor([[0, 1, 2], [1, 2, 3]])
    graph = LandmarkGraph(Data(x=at, edge_index=edges, edge_attr=torch.ones(3)), edge_steps=3)
    navigator = GraphNavigator(graph, level=0, hops=1, failure_penalty=0.0, patience=2.0)
    navigator.start(ObservationGoal([at[3:]]))
    assert navigator.target(latents(0.1), 0).latent.item() == 1
    assert navigator.target(latents(1.3), 3).latent.item() == pytest.approx(2.4)  # at node 2, although node 1 is near
    navigator.start(ObservationGoal([at[3:]]))
    assert navigator.target(latents(0.9), 0).latent.item() == pytest.approx(1.4)
    assert navigator.target(latents(1.15), 3).latent.item() == pytest.approx(
        2.4
    )  # at node 2, although node 1 is nearest
