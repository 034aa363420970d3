"""Planners over landmark graphs: which landmark the top level plans towards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planning_tools import STEP, Identity, begin, flat_planner, hierarchy_planner, points, search, start, walk
from torch_geometric.data import Data

from hiwm.data.store import open_dataset
from hiwm.planning.goals import ObservationGoal, PartGoal
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.planning.rollout import Rollout

OVER_GRAPH = {"graph": "follow", "hops": 1}


def graph_of(where, edges, edge_steps=10):
    data = Data(x=where, edge_index=edges, edge_attr=torch.ones(edges.shape[1]))
    return LandmarkGraph(data, edge_steps=edge_steps)


def test_targets_are_landmarks_or_the_goal_itself(agent):
    graph = agent.graphs[-1]
    goal = points(8, 2)
    planner = start(hierarchy_planner(agent), goal)
    plans, _ = walk(planner, points(8, 1), 25)
    own = agent.hierarchy.encode({"state": goal})[-1]
    goals = landmarks = 0
    for plan in plans[::6]:
        level = plan.levels[2]
        assert level.actions is level.predicted is level.cost is None
        assert torch.equal(level.subgoal, level.target)
        assert level.deadline == graph.edge_steps
        is_goal = (level.target == own).all(1)
        is_landmark = (level.target.unsqueeze(1) == graph.latents).all(2).any(1)
        assert (is_goal | is_landmark).all()
        goals, landmarks = goals + int(is_goal.sum()), landmarks + int(is_landmark.sum())
    assert goals
    assert landmarks


def test_a_target_is_the_successor_of_the_nearest_landmark(agent, tiny_run):
    """From a landmark, the target is the next one on the shortest path; with hops=2, the one after."""
    graph = agent.graphs[-1]
    by_row = {int(row): i for i, row in enumerate(graph.data.row)}
    rows = sorted(by_row)
    states = torch.from_numpy(open_dataset(tiny_run.config.dataset.path).column("state")[rows].copy())
    goal = states[:1].expand(len(rows), 2)
    own = agent.hierarchy.encode({"state": goal})[-1]
    for hops in (1, 2):
        planner = start(hierarchy_planner(agent, hops=hops), goal)
        level = planner.plan({"state": states}).levels[2]
        cost = graph.cost_to_go(torch.tensor([by_row[rows[0]]]))
        following = graph.successors(cost)[:, 0]
        for i, row in enumerate(rows):
            landmark = by_row[row]
            for _ in range(hops):
                landmark = int(following[landmark])
            expected = own[i] if landmark == by_row[rows[0]] else graph.latents[landmark]
            near = torch.cdist(level.target[i : i + 1], expected.unsqueeze(0))
            # within half an edge of the goal's landmark, that counts as reached already
            at_goal = torch.cdist(graph.latents[by_row[row], None], graph.latents[by_row[rows[0]], None])
            assert near < 1e-5 or at_goal <= 0.5 * graph.edge_length


def test_selected_episodes_choose_landmarks_as_if_they_had_been_alone(agent):
    """The top level's choice uses no randomness, so it must not depend on who else is in the batch."""
    goal, state = points(6, 2), points(6, 1)
    together, alone = start(hierarchy_planner(agent), goal), start(hierarchy_planner(agent), goal[4:])
    together.plan({"state": state})
    alone.plan({"state": state[4:]})
    together.select(torch.tensor([4, 5]))
    for planner in (together, alone):
        planner.step = 6
    there = points(2, 3)
    a, b = (planner.plan({"state": there}).levels[2] for planner in (together, alone))
    torch.testing.assert_close(a.target, b.target)


def test_a_graph_that_is_missing_is_refused(exact):
    with pytest.raises(ValueError, match=r"planner.graph is 'follow' but the top level has no landmark graph"):
        flat_planner(exact, graph="follow")


def test_a_flat_planner_over_a_graph_searches_for_the_next_landmark(agent):
    level = {**search(), "horizon": 6, "replan": 3, "action_repeat": 1}
    flat = agent.with_planner(num_levels=1, graph="follow", level0=level)
    goal = points(4, 2).numpy()
    flat.reset(goal)
    action = flat.act(points(4, 1).numpy())
    (plan,) = flat.plan.levels
    assert plan.actions.shape == (4, 6, 2)
    own = flat.hierarchy.encode({"state": torch.from_numpy(goal)})[0]
    on_graph = (plan.target.unsqueeze(1) == agent.graphs[0].latents).all(2).any(1)
    assert (on_graph | (plan.target == own).all(1)).all()
    assert isinstance(action, np.ndarray)


def test_an_agent_near_its_target_goes_on_from_it(exact):
    where = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 0.3]])
    graph = graph_of(where, torch.tensor([[0, 1, 3], [1, 2, 1]]))
    planner = start(flat_planner(exact, OVER_GRAPH, graphs=[graph]), torch.tensor([[2.0, 0.0]]))
    near = torch.tensor([[1.0, 0.25]])  # landmark 3 is the nearest, landmark 1 is near
    assert planner.navigator.target(near, 0).latent.tolist() == [[1.0, 0.0]]
    planner.navigator.target_node = torch.tensor([1])
    assert planner.navigator.target(near, 0).latent.tolist() == [[2.0, 0.0]]


def test_a_graph_leads_to_where_the_part_is_right(exact):
    where = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    graph = graph_of(where, torch.tensor([[0, 1, 1], [1, 2, 3]]))
    planner = flat_planner(exact, OVER_GRAPH, graphs=[graph])
    begin(planner, PartGoal(torch.tensor([[1.9, torch.nan], [torch.nan, 0.9]]), [Identity()]))
    assert planner.navigator.goal_node.tolist() == [2, 3]
    target = planner.navigator.target(torch.tensor([[0.0, 0.0], [1.0, 0.9]]), 0)
    assert target.latent.tolist() == [[1, 0], [1, 1]]
    # on the way to the landmark; at the last one, to the goal itself, whatever x is
    cost = target.cost(Rollout.staying(torch.tensor([[1.0, 1.0], [7.0, 1.0]])))
    torch.testing.assert_close(cost.squeeze(), torch.tensor([1.0, 0.01]))


def test_a_goal_that_several_components_meet_is_met_in_the_component_of_the_episode(exact):
    where = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 5.0], [1.0, 5.0], [2.1, 5.0]])
    graph = graph_of(where, torch.tensor([[0, 1, 3, 4], [1, 2, 4, 5]]))  # two rows without a path between them
    planner = flat_planner(exact, OVER_GRAPH, graphs=[graph])
    navigator = begin(planner, PartGoal(torch.tensor([[2.1, torch.nan]] * 3), [Identity()])).navigator
    target = navigator.target(torch.tensor([[0.0, 0.1], [0.0, 4.9], [0.9, 0.2]]), 0)
    assert target.latent.tolist() == [[1, 0], [1, 5], [2, 0]]
    planner.select(torch.tensor([1, 2]))
    later = navigator.target(torch.tensor([[1.0, 4.9], [1.0, 0.2]]), 10)
    assert later.latent.tolist() == [where[5].tolist(), [2, 0]]
    navigator.update_goal(planner.goal, torch.tensor([True, True]))
    assert navigator.goal_node.tolist() == [5, 2]
    # a whole observation is in one component, wherever the episode seems to be
    navigator = begin(planner, ObservationGoal([torch.tensor([[2.0, 4.9]])])).navigator
    navigator.target(torch.tensor([[0.0, 0.1]]), 0)
    assert navigator.goal_node.tolist() == [5]


def test_a_closed_door_is_learned_and_remembered(exact):
    """A wall with two doors; the near one is closed today, which no observation shows."""
    axis = torch.linspace(0, 1, 11)
    where = torch.cartesian_prod(axis, axis)

    def through_wall(a, b, doors):
        crosses = (a[..., 0] - 0.55) * (b[..., 0] - 0.55) < 0
        height = (a[..., 1] + b[..., 1]) / 2
        return crosses & ~torch.stack([(height - door).abs() < 0.11 for door in doors]).any(0)

    apart = torch.cdist(where, where)
    pairs = ((apart > 0) & (apart < 0.15)).nonzero()
    pairs = pairs[~through_wall(where[pairs[:, 0]], where[pairs[:, 1]], (0.5, 0.9))].T
    graph = graph_of(where, pairs, edge_steps=2)
    goal = ObservationGoal([torch.tensor([[0.9, 0.3]])])

    def episode(planner):
        begin(planner, goal, seed=4)
        state = torch.tensor([[0.2, 0.3]])
        for step in range(400):
            moved = (state + STEP * planner.plan({"state": state}).action).clamp(0, 1)
            state = torch.where(through_wall(state, moved, (0.9,))[:, None], state, moved)
            if (state - goal.latent(0)).norm() < 0.1:
                return step
        return None

    changes = {**OVER_GRAPH, "level0": {"horizon": 6, "action_repeat": 2, "replan": 2}}
    # without memory it stands before the closed door for ever
    assert episode(flat_planner(exact, changes, graphs=[graph], failure_penalty=0.0)) is None
    planner = flat_planner(exact, changes, graphs=[graph], failure_penalty=20.0)
    first, second = episode(planner), episode(planner)
    assert first is not None
    assert second is not None
    assert second < 0.8 * first
    assert torch.equal(graph.weights, torch.ones(pairs.shape[1]))  # the graph of the data stays as it was
