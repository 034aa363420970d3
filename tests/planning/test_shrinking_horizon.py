from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from planning_tools import FLAT, Identity, begin, flat_planner, hierarchy_planner, path_of, points, start, walk

from hiwm.agent import Agent
from hiwm.heads.heads import Heads
from hiwm.planning.goals import AnyOf, BoxRegion, Goal, KeepOut, ObservationGoal, PartGoal, Sum, Waypoints
from hiwm.planning.graph.navigator import GraphNavigator
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.rollout import Rollout
from hiwm.planning.shrinking_horizon import ShrinkingHorizon, half_steps
from hiwm.planning.targets import Target

PERIODS, HORIZON = (1, 10), (5, 4)  # level 0 sees half a step of level 1


class Line(torch.nn.Module):
    """A readout of latents (..., 1) that are the place itself."""

    def __init__(self, error):
        super().__init__()
        self.std, self.prediction_error = torch.ones(1), torch.full((1,), error)

    def forward(self, latent):
        return latent


def line(*where, errors=(0.1, 0.5)):
    """Goals on a line, read with those errors at level 0 and 1."""
    return PartGoal(torch.tensor(where)[:, None], [Line(error) for error in errors])


def begun(goal):
    shrinking = ShrinkingHorizon(PERIODS, HORIZON, [True, True], [False, False])
    shrinking.start(goal)
    return shrinking


def leading_to(latents):
    """Candidates that lead to latents (B, S, H, D)."""
    return Rollout(latents[:, 0, 0], latents[..., :0], latents)


def path(*places):
    """What a plan predicts, a row an episode: (B, H, 1)."""
    return torch.tensor(places)[..., None]


def test_a_strategy_may_plan_fewer_steps_than_the_horizon():
    shrinking = begun(line(2.0, 2.0))
    assert shrinking.note_plan(1, path([1.0, 2.0], [1.0, 1.2]), 0).tolist() == [4, 4]
    assert shrinking.arrival[1].tolist() == [20, float("inf")]


def counted(shrinking, k, step, horizon):
    """Steps of level k that count in the cost of each episode's plan."""
    target = Target(lambda rollout: rollout.latents[..., 0], None, k, PERIODS[-1])
    cost = shrinking.target(k, target, step).cost(leading_to(torch.zeros(shrinking.goal.size, 2, horizon, 1)))
    assert torch.equal(cost[:, 0], cost[:, 1])
    return cost[:, 0].isfinite().sum(1).tolist()


def test_the_horizon_shrinks_with_time_for_each_episode_by_itself():
    shrinking = begun(line(2.0, 3.0, 9.0))
    assert counted(shrinking, 1, 0, 4) == [4, 4, 4]
    # within the error of 0.5 at the second step, at the last, and never
    plan = path([1.0, 1.6, 2.0, 2.0], [1.0, 2.0, 2.4, 2.6], [1.0, 2.0, 3.0, 4.0])
    assert shrinking.note_plan(1, plan, 0).tolist() == [4, 4, 4]
    assert shrinking.arrival[1].tolist() == [20, 40, torch.inf]
    for step, expected in ((0, [2, 4, 4]), (9, [2, 4, 4]), (10, [1, 3, 4]), (15, [1, 3, 4]), (20, [4, 2, 4])):
        assert counted(shrinking, 1, step, 4) == expected  # an arrival that has passed counts no more


def test_a_new_plan_may_not_put_the_arrival_off_but_may_give_it_up():
    shrinking = begun(line(2.0, 2.0, 2.0))
    shrinking.note_plan(1, path(*[[1.0, 2.0, 2.0, 2.0]] * 3), 0)
    # later by its own count, sooner, and only beyond what counts
    assert (
        shrinking.note_plan(1, path([1.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0], [0.0, 1.0, 2.0, 2.0]), 5).tolist()
        == [2] * 3
    )
    assert shrinking.arrival[1].tolist() == [20, 15, torch.inf]
    assert counted(shrinking, 1, 6, 4) == [2, 1, 4]


def test_a_level_that_reads_the_goal_more_accurately_takes_over_once_it_can_look_that_far():
    shrinking = begun(line(2.0, 9.0))
    shrinking.note_plan(1, path([1.0, 2.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0]), 0)
    found = {step: shrinking.at_goal(0, step).tolist() for step in (0, 14, 15, 19, 20)}
    assert found == {0: [False] * 2, 14: [False] * 2, 15: [True, False], 19: [True, False], 20: [False] * 2}
    assert shrinking.at_goal(1, 15).all()
    assert not begun(line(2.0)).at_goal(0, 15).any()
    # its own plans then have arrivals too, others none
    assert shrinking.note_plan(0, path([1.0, 1.95, 2.0, 2.0, 2.0], [9.0] * 5), 16).tolist() == [5, 0]
    assert shrinking.arrival[0].tolist() == [18, torch.inf]
    assert counted(shrinking, 0, 16, 5) == [2, 5]
    shrinking.note_plan(1, path([9.0] * 4, [1.0, 2.0, 3.0, 4.0]), 17)  # the level above gives its arrival up
    assert counted(shrinking, 0, 17, 5) == [5, 5]
    assert shrinking.note_plan(0, path(*[[2.0] * 5] * 2), 17).tolist() == [0, 0]
    # a level that reads it no more accurately never does
    blunt = begun(line(2.0, errors=(0.5, 0.5)))
    blunt.note_plan(1, path([2.0] * 4), 0)
    assert blunt.arrival[1].tolist() == [10]
    assert not blunt.at_goal(0, 8).any()


def test_a_level_is_skipped_only_below_one_that_is():
    shrinking = ShrinkingHorizon((1, 2, 4), (2, 2, 2), [True] * 3, [False] * 3)
    shrinking.start(line(2.0, 2.0, errors=(0.1, 0.2, 0.3)))
    shrinking.arrival[1] = torch.tensor([1.0, 1.0])
    assert not shrinking.at_goal(0, 0).any()
    shrinking.arrival[2] = torch.tensor([4.0, 5.0])
    assert shrinking.at_goal(1, 0).tolist() == shrinking.at_goal(0, 0).tolist() == [True, False]


def test_a_level_takes_over_where_a_metric_level_above_says_that_it_sees_the_goal():
    shrinking = ShrinkingHorizon((1, 5, 20), (5, 4, 2), [True] * 3, [False, True, True])
    goal = ObservationGoal([torch.zeros(3, 1)] * 3, torch.full((3,), 0.1), (2, 1, 1))
    shrinking.start(goal)
    assert not shrinking.at_goal(1, 0).any()
    # level 1 looks 4 steps of 5 ahead, a step of level 2; level 0 looks 5 ahead, a step of level 1
    places = [torch.zeros(3, 1), torch.tensor([[0.9], [1.1], [0.9]]), torch.tensor([[1.0], [-0.9], [1.1]])]
    shrinking.observe(places)
    assert shrinking.at_goal(1, 0).tolist() == [True, True, False]
    assert shrinking.at_goal(0, 0).tolist() == [True, False, False]  # not while level 1 follows a subgoal
    assert shrinking.follows_subgoal(0, 0).tolist() == [False, True, True]
    accurate, shrinking.more_accurate[1] = shrinking.more_accurate[1], torch.zeros(3, dtype=torch.bool)
    assert not shrinking.at_goal(1, 0).any()
    shrinking.more_accurate[1] = accurate
    shrinking.select(torch.tensor([2, 0]), goal.select(torch.tensor([2, 0])))
    assert shrinking.at_goal(1, 0).tolist() == [False, True]
    shrinking.start(goal)
    assert not shrinking.at_goal(1, 0).any()
    # the weight of a goal changes its cost, not how far away it is; goals that many latents meet have no such distance
    shrinking.start(Sum([goal], [100.0]))
    shrinking.observe(places)
    assert not shrinking.at_goal(1, 0).any()
    # distances of other levels count no steps
    shrinking = ShrinkingHorizon((1, 5), (5, 4), [True] * 2, [False, False])
    shrinking.start(goal)
    shrinking.observe([torch.zeros(3, 1)] * 2)
    assert not shrinking.at_goal(0, 0).any()


def test_the_cost_is_that_of_the_goal_where_a_level_takes_over_and_of_the_subgoal_elsewhere():
    shrinking = begun(line(2.0, 9.0))
    latent = torch.rand(2, 3, 5, 1)
    rollout = leading_to(latent)
    target = Target(lambda rollout: 100 + rollout.latents[..., 0], torch.tensor([[7.0], [8.0]]), 1, 10)
    assert torch.equal(shrinking.target(0, target, 0).cost(rollout), 100 + latent[..., 0])
    shrinking.arrival[1] = torch.tensor([5.0, torch.inf])
    mixed = shrinking.target(0, target, 0)
    assert torch.equal(mixed.cost(rollout)[0], (latent[0, ..., 0] - 2).square())
    assert torch.equal(mixed.cost(rollout)[1], 100 + latent[1, ..., 0])
    share = replace(target, goal=lambda rollout: torch.ones(2, 5))
    assert shrinking.target(0, share, 0).goal(rollout).tolist() == [[0.0] * 5, [1.0] * 5]  # the first has no subgoal
    stays = shrinking.current_cost(0, torch.tensor([[5.0], [5.0]]), torch.tensor([70.0, 80.0]), 0)
    assert stays.tolist() == [9.0, 80.0]  # (5 - 2)^2 to the goal, and the cost to the subgoal
    assert mixed.level == 1
    assert torch.equal(mixed.latent, target.latent)  # a part is no latent: the inverse model is asked for the subgoal
    # a cost that no episode needs is not computed
    unasked = replace(target, cost=lambda *_: pytest.fail("asked"))
    shrinking.arrival[1] = torch.tensor([5.0, 5.0])
    assert torch.equal(shrinking.target(0, unasked, 0).cost(rollout), shrinking.goal.cost(0, latent))
    shrinking.arrival[1] = torch.tensor([torch.inf, torch.inf])
    shrinking.goal.cost = unasked.cost
    assert torch.equal(shrinking.target(0, target, 0).cost(rollout), 100 + latent[..., 0])

    errors = torch.tensor([0.1, 0.5])
    whole = begun(ObservationGoal([torch.tensor([[2.0], [3.0]]), torch.tensor([[20.0], [30.0]])], errors))
    whole.arrival[1] = torch.tensor([torch.inf, 5.0])
    assert whole.target(0, target, 0).latent.tolist() == [[7.0], [30.0]]


def test_kept_episodes_keep_their_arrivals_and_other_goals_begin_anew():
    shrinking = begun(line(1.0, 2.0, 9.0))
    shrinking.note_plan(1, path(*[[1.0, 2.0, 2.0, 2.0]] * 3), 0)
    shrinking.select(torch.tensor([2, 1]), line(9.0, 2.0))
    assert shrinking.arrival[1].tolist() == [torch.inf, 20]
    assert shrinking.goal.size == len(shrinking.errors[0]) == len(shrinking.more_accurate[0]) == 2
    shrinking.start(line(3.0, 3.0))
    assert shrinking.arrival[1].isinf().all()


def test_errors_are_costs_in_the_units_of_the_goal():
    readouts = [Identity(), Identity()]
    for readout, error in zip(readouts, (1.0, 3.0), strict=True):
        readout.std, readout.prediction_error = torch.tensor([1.0, 10.0]), torch.tensor([error, 5.0])
    part = PartGoal(torch.tensor([[0.0, 0.0], [0.0, torch.nan], [torch.nan, 0.0]]), readouts)
    assert part.reached_cost(0).tolist() == [1.25, 1, 0.25]
    assert part.reached_cost(1).tolist() == [9.25, 9, 0.25]
    assert part.more_accurate_than_above(0).tolist() == [True, True, False]
    inf = torch.inf
    box = BoxRegion(
        torch.tensor([[-inf, 0.0], [0.0, -inf], [-inf, -inf]]),
        torch.tensor([[inf, 1.0], [inf, inf], [1.0, inf]]),
        readouts,
    )
    assert box.reached_cost(1).tolist() == [0.25, 9, 9]
    assert box.more_accurate_than_above(0).tolist() == [False, True, True]
    assert AnyOf([part, box]).reached_cost(1).tolist() == [0.25, 9, 0.25]
    assert (
        AnyOf([part, box]).more_accurate_than_above(0).tolist()
        == Sum([part, box]).more_accurate_than_above(0).tolist()
        == [False, True, False]
    )
    assert Sum([part, box], [1.0, 2.0]).reached_cost(1).tolist() == [9.75, 27, 18.25]
    now = Waypoints([part, box], 0.1, current=torch.tensor([0, 1, 1]))
    assert now.reached_cost(1).tolist() == [9.25, 9, 9]
    assert now.more_accurate_than_above(0).tolist() == [True, True, True]
    assert KeepOut(box, box).reached_cost(0).tolist() == box.reached_cost(0).tolist()
    assert KeepOut(box, box).more_accurate_than_above(0).tolist() == box.more_accurate_than_above(0).tolist()


def test_a_whole_observation_counts_as_reached_half_a_step_away(agent):
    errors = half_steps(agent.hierarchy, agent.heads.action_banks)
    level, real = agent.hierarchy.levels[1], agent.heads.action_banks[1]
    ahead = level.rollout(real.start, real.actions[:, :1])[:, 0]
    torch.testing.assert_close(errors[1].sqrt(), (ahead - real.start).norm(dim=1).square().mean().sqrt() / 2)
    goal = ObservationGoal(agent.hierarchy.encode({"state": points(3)}), errors)
    assert goal.reached_cost(2).tolist() == [errors[2].item()] * 3
    assert goal.select(torch.tensor([1])).reached_cost(0).tolist() == [errors[0].item()]
    assert goal.more_accurate_than_above(1).tolist() == [True] * 3
    shrinking = agent.with_planner(graph="none", shrinking_horizon=True, budget=400)
    shrinking.reset(points(3).numpy())
    shrinking.act(points(3, 1).numpy())
    assert [part.goal_within.tolist() for part in shrinking.plan.levels][2] == [4] * 3
    with pytest.raises(ValueError, match=r"planner.shrinking_horizon is true but level 0 .* no saved real actions"):
        Agent(agent.hierarchy, Heads(), agent.graphs, shrinking.config, agent.spec)


class Nameless(ObservationGoal):
    """Of a user, who says nothing of errors."""

    reached_cost = Goal.reached_cost


def test_goals_without_an_error_and_graphs_are_refused(agent, exact):
    shrinking = flat_planner(exact, shrinking_horizon=True)
    for goal in (ObservationGoal([points(2)]), Nameless([points(2)], [torch.ones(())])):
        why = (
            "this ObservationGoal has no `errors`"
            if type(goal) is ObservationGoal
            else "Nameless does not implement reached_cost"
        )
        message = rf"planner.shrinking_horizon is true but {why}"
        with pytest.raises(ValueError, match=message):
            begin(shrinking, goal)
    with pytest.raises(ValueError, match=r"planner.shrinking_horizon is 'shrinks'; expected true or false"):
        FLAT.changed({"shrinking_horizon": "shrinks"})
    for graph in ("follow", "search"):
        message = rf"planner.shrinking_horizon is true; expected false with planner.graph '{graph}'"
        with pytest.raises(ValueError, match=message):
            hierarchy_planner(agent, shrinking_horizon=True, graph=graph)


def exactly(error=0.02):
    readout = Identity()
    readout.prediction_error = torch.full((2,), error)
    return [readout]


def test_a_flat_planner_arrives_when_it_said_it_would(exact):
    """With the exact model, whatever the distance: every step leaves one less, or the search finds a shorter way."""
    position, target = torch.tensor([[0.1, 0.1], [0.1, 0.5]]), torch.tensor([[0.5, 0.1], [0.2, 0.5]])
    level0 = {"replan": 1, "action_repeat": 1, "proposal": {"std": 1.0}}
    made = flat_planner(exact, shrinking_horizon=True, budget=4000, warm_start=True, level0=level0)
    planner = begin(made, PartGoal(target, exactly(0.03)), seed=5)
    plans, path = path_of(planner, position, 20)
    left = torch.stack([plan.levels[0].goal_within for plan in plans])  # (20, 2)
    away = (path - target).norm(dim=-1)
    assert left[0].tolist() == [20, 20]
    for i, shortest in ((0, 8), (1, 2)):
        last = int((left[:, i] == 1).nonzero()[0])
        assert shortest - 1 <= last <= shortest + 4
        assert (left[1 : last + 1, i] < left[:last, i]).all()
        assert away[last, i] < 0.05


def part_goal(agent, where, errors):
    """On the position, which level 0's latent is and levels above are asked for by their distance from it."""

    class Told(torch.nn.Module):
        std = torch.ones(1)

        def __init__(self, k, error):
            super().__init__()
            self.target, self.prediction_error = agent.hierarchy.encode({"state": where})[k], torch.full((1,), error)

        def forward(self, latent):
            target = self.target.reshape(len(where), *(1 for _ in latent.shape[1:-1]), -1)
            return (latent - target).norm(dim=-1, keepdim=True)

    return PartGoal(torch.zeros(len(where), 1), [Told(k, error) for k, error in enumerate(errors)])


def test_skipped_levels_leave_the_goal_to_the_searches_below(agent):
    where = points(4)
    made = hierarchy_planner(agent, shrinking_horizon=True, graph="none", budget=400)
    # the top level always thinks that it is there; the middle one never does
    planner = begin(made, part_goal(agent, where, (0.0, 0.1, 1e9)))
    plan = planner.plan({"state": points(4, 1)})
    assert [part.goal_within.tolist() for part in plan.levels] == [[0] * 4, [2] * 4, [4] * 4]
    middle = plan.levels[1]
    torch.testing.assert_close(middle.cost, planner.goal.cost(1, middle.predicted).amin(1))
    assert torch.equal(middle.target, plan.levels[2].subgoal)
    here = agent.hierarchy.encode({"state": points(4, 1)})[1]
    torch.testing.assert_close(middle.current_cost, planner.goal.cost(1, here))  # not that of its subgoal
    # the step after its arrival is one too many for the top level, whose horizon is one step from now on
    planner.step = 6
    assert counted(planner.horizon, 2, 0, 4) == [1] * 4
    planner.select(torch.tensor([1, 3]))
    assert planner.horizon.goal is planner.goal
    assert planner.plans[1].goal_within.tolist() == [2, 2]


def test_whole_observations_are_handed_to_the_inverse_model_once_a_level_is_skipped(agent):
    shrinking = agent.with_planner(graph="none", shrinking_horizon=True, budget=400)
    shrinking.goal_maker.errors = [torch.zeros(()), torch.zeros(()), torch.tensor(1e9)]
    shrinking.reset(points(3).numpy())
    shrinking.act(points(3, 1).numpy())
    goal = agent.hierarchy.encode({"state": points(3)})
    assert torch.equal(shrinking.plan.levels[1].target, goal[2])
    assert torch.equal(shrinking.plan.levels[0].target, shrinking.plan.levels[1].subgoal)


def test_a_waypoint_of_one_episode_leaves_the_arrivals_of_the_others(exact):
    """Two episodes in a batch: the second plans as it would alone when the first one reaches its waypoint."""
    made = flat_planner(exact, shrinking_horizon=True, budget=2000, level0={"replan": 1, "action_repeat": 1})
    places = [torch.tensor([[0.3, 0.5], [0.9, 0.5]]), torch.tensor([[0.9, 0.5], [0.1, 0.5]])]
    goal = Waypoints([PartGoal(place, exactly()) for place in places], tolerance=0.03**2)
    planner = begin(made, goal)
    planner.plan({"state": torch.tensor([[0.1, 0.5], [0.6, 0.5]])})
    before = planner.horizon.arrival[0].clone()
    assert before.isfinite().all()
    planner._observe_goal([torch.tensor([[0.3, 0.5], [0.6, 0.5]])])
    assert planner.goal.current.tolist() == [1, 0]
    assert planner.horizon.arrival[0].tolist() == [torch.inf, before[1].item()]


def test_levels_that_are_due_plan_for_the_next_waypoint(agent):
    places = [torch.tensor([[0.2, 0.2]]), torch.tensor([[0.8, 0.8]])]
    latents = [agent.hierarchy.encode({"state": place}) for place in places]
    goal = Waypoints([ObservationGoal(latent) for latent in latents], tolerance=1e-3)
    for graph in ("none", "follow"):
        replan = {"level0": {"replan": 3}, "level1": {"replan": 3}, "level2": {"replan": 6}}
        planner = begin(hierarchy_planner(agent, replan, graph=graph), goal)
        planner.plan({"state": torch.tensor([[0.6, 0.2]])})
        for _ in range(2):
            planner.plan({"state": torch.tensor([[0.5, 0.2]])})
        plan = planner.plan({"state": places[0]})
        assert planner.goal.current.item() == 1
        assert [part.planned_at for part in plan.levels] == [3, 3, 0]
        if isinstance(planner.navigator, GraphNavigator):
            last = agent.graphs[2].nearest(latents[1][2])
            assert planner.navigator.goal_node.tolist() == last.tolist()


def test_a_waypoint_that_one_episode_reaches_changes_no_other(agent):
    places = [torch.tensor([[0.2, 0.2], [0.9, 0.9]]), torch.tensor([[0.8, 0.8], [0.1, 0.9]])]
    latents = [agent.hierarchy.encode({"state": place}) for place in places]

    def actions(rows):
        goal = Waypoints([ObservationGoal([x[rows] for x in latent]) for latent in latents], tolerance=1e-3)
        planner = hierarchy_planner(agent, graph="none", level2={"replan": 9})
        planner.start(goal, EpisodeNoise.of_episodes(0, rows))
        states = [torch.tensor([[0.2, 0.2], [0.5, 0.1 * i]]) for i in range(8)]
        return torch.stack([planner.plan({"state": state[rows]}).action for state in states]), planner.goal.current

    together, current = actions([0, 1])
    assert current.tolist() == [1, 0]
    torch.testing.assert_close(together[:, 1:], actions([1])[0], rtol=1e-3, atol=1e-4)


def test_another_waypoint_begins_with_the_whole_horizon(exact):
    places = [torch.tensor([[x, 0.5]]) for x in (0.3, 0.9)]
    goal = Waypoints([PartGoal(place, exactly()) for place in places], tolerance=0.03**2)
    made = flat_planner(exact, shrinking_horizon=True, budget=2000, level0={"replan": 1, "action_repeat": 1})
    planner = begin(made, goal)
    plans, _ = walk(planner, torch.tensor([[0.1, 0.5]]), 12)
    horizons = [plan.levels[0].goal_within.item() for plan in plans]
    assert planner.goal.current.item() == 1
    assert planner.horizon.goal is planner.goal
    assert horizons[0] == 20
    assert min(horizons) <= 3
    first = horizons.index(min(horizons))
    assert 20 in horizons[first:]


def test_a_fixed_horizon_is_not_reported(agent):
    plan = start(hierarchy_planner(agent), points(2)).plan({"state": points(2, 1)})
    assert all(part.goal_within is None for part in plan.levels)
