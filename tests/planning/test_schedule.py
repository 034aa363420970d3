from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_planner import FLAT, HIGH, LOW, Itself, begin, exact, path_of, points, stack_planner, start, walk

from hiwm.agent import Agent
from hiwm.heads.heads import Heads
from hiwm.planning.goals import Aim, AnyOf, Goal, InOrder, KeepOut, ObservationGoal, PartGoal, Region, Sum
from hiwm.planning.planner import HierarchicalPlanner
from hiwm.planning.schedule import Schedule, half_steps

assert exact  # a fixture
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
    schedule = Schedule(PERIODS, HORIZON)
    schedule.start(goal)
    return schedule


def path(*places):
    """What a plan predicts, a row an episode: (B, H, 1)."""
    return torch.tensor(places)[..., None]


def counted(schedule, k, step, horizon):
    """Steps of level k that count in the energy of each episode's plan."""
    aim = Aim(None, k, lambda latent: latent[..., 0])
    energy = schedule.aim(k, aim, step).energy(torch.zeros(schedule.goal.size, 2, horizon, 1))
    assert torch.equal(energy[:, 0], energy[:, 1])
    return energy[:, 0].isfinite().sum(1).tolist()


def test_the_horizon_shrinks_with_time_for_each_episode_by_itself():
    schedule = begun(line(2.0, 3.0, 9.0))
    assert counted(schedule, 1, 0, 4) == [4, 4, 4]
    # within the error of 0.5 at the second step, at the last, and never
    plan = path([1.0, 1.6, 2.0, 2.0], [1.0, 2.0, 2.4, 2.6], [1.0, 2.0, 3.0, 4.0])
    assert schedule.planned(1, plan, 0).tolist() == [4, 4, 4]
    assert schedule.arrival[1].tolist() == [20, 40, torch.inf]
    for step, expected in ((0, [2, 4, 4]), (9, [2, 4, 4]), (10, [1, 3, 4]), (15, [1, 3, 4]), (20, [4, 2, 4])):
        assert counted(schedule, 1, step, 4) == expected  # an arrival that has passed counts no more


def test_a_new_plan_may_not_put_the_arrival_off_but_may_give_it_up():
    schedule = begun(line(2.0, 2.0, 2.0))
    schedule.planned(1, path(*[[1.0, 2.0, 2.0, 2.0]] * 3), 0)
    # later by its own count, sooner, and only beyond what counts
    assert (
        schedule.planned(1, path([1.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0], [0.0, 1.0, 2.0, 2.0]), 5).tolist()
        == [2] * 3
    )
    assert schedule.arrival[1].tolist() == [20, 15, torch.inf]
    assert counted(schedule, 1, 6, 4) == [2, 1, 4]


def test_a_level_that_sees_the_goal_more_sharply_takes_over_once_it_can_look_that_far():
    schedule = begun(line(2.0, 9.0))
    schedule.planned(1, path([1.0, 2.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0]), 0)
    told = {step: schedule.at_goal(0, step).tolist() for step in (0, 14, 15, 19, 20)}
    assert told == {0: [False] * 2, 14: [False] * 2, 15: [True, False], 19: [True, False], 20: [False] * 2}
    assert schedule.at_goal(1, 15).all()
    assert not begun(line(2.0)).at_goal(0, 15).any()
    # its own plans then have arrivals too, others none
    assert schedule.planned(0, path([1.0, 1.95, 2.0, 2.0, 2.0], [9.0] * 5), 16).tolist() == [5, 0]
    assert schedule.arrival[0].tolist() == [18, torch.inf]
    assert counted(schedule, 0, 16, 5) == [2, 5]
    schedule.planned(1, path([9.0] * 4, [1.0, 2.0, 3.0, 4.0]), 17)  # the level above gives its arrival up
    assert counted(schedule, 0, 17, 5) == [5, 5]
    assert schedule.planned(0, path(*[[2.0] * 5] * 2), 17).tolist() == [0, 0]
    # a level that sees it no more sharply never does
    blunt = begun(line(2.0, errors=(0.5, 0.5)))
    blunt.planned(1, path([2.0] * 4), 0)
    assert blunt.arrival[1].tolist() == [10]
    assert not blunt.at_goal(0, 8).any()


def test_a_level_is_skipped_only_below_one_that_is():
    schedule = Schedule((1, 2, 4), (2, 2, 2))
    schedule.start(line(2.0, 2.0, errors=(0.1, 0.2, 0.3)))
    schedule.arrival[1] = torch.tensor([1.0, 1.0])
    assert not schedule.at_goal(0, 0).any()
    schedule.arrival[2] = torch.tensor([4.0, 5.0])
    assert schedule.at_goal(1, 0).tolist() == schedule.at_goal(0, 0).tolist() == [True, False]


def test_the_energy_is_the_goals_where_a_level_takes_over_and_the_subgoals_elsewhere():
    schedule = begun(line(2.0, 9.0))
    latent = torch.rand(2, 3, 5, 1)
    aim = Aim(torch.tensor([[7.0], [8.0]]), 1, lambda latent: 100 + latent[..., 0])
    assert torch.equal(schedule.aim(0, aim, 0).energy(latent), 100 + latent[..., 0])
    schedule.arrival[1] = torch.tensor([5.0, torch.inf])
    mixed = schedule.aim(0, aim, 0)
    assert torch.equal(mixed.energy(latent)[0], (latent[0, ..., 0] - 2).square())
    assert torch.equal(mixed.energy(latent)[1], 100 + latent[1, ..., 0])
    assert mixed.level == 1
    assert torch.equal(mixed.latent, aim.latent)  # a part is no latent: the inverse model is asked for the subgoal
    # what nobody needs is not computed
    unasked = Aim(aim.latent, 1, lambda latent: pytest.fail("asked"))
    schedule.arrival[1] = torch.tensor([5.0, 5.0])
    assert torch.equal(schedule.aim(0, unasked, 0).energy(latent), schedule.goal.energy(0, latent))
    schedule.arrival[1] = torch.tensor([torch.inf, torch.inf])
    schedule.goal.energy = unasked.energy
    assert torch.equal(schedule.aim(0, aim, 0).energy(latent), 100 + latent[..., 0])

    errors = torch.tensor([0.1, 0.5])
    whole = begun(ObservationGoal([torch.tensor([[2.0], [3.0]]), torch.tensor([[20.0], [30.0]])], errors))
    whole.arrival[1] = torch.tensor([torch.inf, 5.0])
    assert whole.aim(0, aim, 0).latent.tolist() == [[7.0], [30.0]]


def test_kept_episodes_keep_their_arrivals_and_other_goals_begin_anew():
    schedule = begun(line(1.0, 2.0, 9.0))
    schedule.planned(1, path(*[[1.0, 2.0, 2.0, 2.0]] * 3), 0)
    schedule.keep(torch.tensor([2, 1]), line(9.0, 2.0))
    assert schedule.arrival[1].tolist() == [torch.inf, 20]
    assert schedule.goal.size == len(schedule.errors[0]) == len(schedule.sharper[0]) == 2
    schedule.start(line(3.0, 3.0))
    assert schedule.arrival[1].isinf().all()


def test_errors_are_energies_in_the_goals_units():
    readouts = [Itself(), Itself()]
    for readout, error in zip(readouts, (1.0, 3.0), strict=True):
        readout.std, readout.prediction_error = torch.tensor([1.0, 10.0]), torch.tensor([error, 5.0])
    part = PartGoal(torch.tensor([[0.0, 0.0], [0.0, torch.nan], [torch.nan, 0.0]]), readouts)
    assert part.error(0).tolist() == [1.25, 1, 0.25]
    assert part.error(1).tolist() == [9.25, 9, 0.25]
    assert part.sharper(0).tolist() == [True, True, False]
    inf = torch.inf
    box = Region(
        torch.tensor([[-inf, 0.0], [0.0, -inf], [-inf, -inf]]),
        torch.tensor([[inf, 1.0], [inf, inf], [1.0, inf]]),
        readouts,
    )
    assert box.error(1).tolist() == [0.25, 9, 9]
    assert box.sharper(0).tolist() == [False, True, True]
    assert AnyOf([part, box]).error(1).tolist() == [0.25, 9, 0.25]
    assert AnyOf([part, box]).sharper(0).tolist() == Sum([part, box]).sharper(0).tolist() == [False, True, False]
    assert Sum([part, box], [1.0, 2.0]).error(1).tolist() == [9.75, 27, 18.25]
    now = InOrder([part, box], 0.1, at=torch.tensor([0, 1, 1]))
    assert now.error(1).tolist() == [9.25, 9, 9]
    assert now.sharper(0).tolist() == [True, True, True]
    assert KeepOut(box, box).error(0).tolist() == box.error(0).tolist()
    assert KeepOut(box, box).sharper(0).tolist() == box.sharper(0).tolist()


def test_a_whole_observation_counts_as_reached_half_a_step_away(agent):
    errors = half_steps(agent.hierarchy, agent.heads.action_banks)
    level, real = agent.hierarchy.levels[1], agent.heads.action_banks[1]
    ahead = level.rollout(real.start, real.actions[:, :1])[:, 0]
    torch.testing.assert_close(errors[1].sqrt(), (ahead - real.start).norm(dim=1).square().mean().sqrt() / 2)
    goal = ObservationGoal(agent.hierarchy.encode({"state": points(3)}), errors)
    assert goal.error(2).tolist() == [errors[2].item()] * 3
    assert goal.keep(torch.tensor([1])).error(0).tolist() == [errors[0].item()]
    assert goal.sharper(1).tolist() == [True] * 3
    shrinking = agent.with_planner(landmarks="none", schedule="shrink", budget=400)
    shrinking.reset(points(3).numpy())
    shrinking.act(points(3, 1).numpy())
    assert [part.horizon.tolist() for part in shrinking.plan.steps][2] == [4] * 3
    with pytest.raises(ValueError, match=r"planner.schedule is 'shrink' but .* no real actions of level 0 saved"):
        Agent(agent.hierarchy, Heads(), agent.graphs, shrinking.config, agent.world)


class Nameless(ObservationGoal):
    """Of a user, who says nothing of errors."""

    error = Goal.error


def test_what_has_no_error_or_follows_landmarks_is_refused(agent, exact):
    shrink = HierarchicalPlanner(exact, replace(FLAT, schedule="shrink"), LOW, HIGH)
    for goal in (ObservationGoal([points(2)]), Nameless([points(2)], [torch.ones(())])):
        with pytest.raises(ValueError, match=rf"planner.schedule is 'shrink' but {type(goal).__name__} tells no error"):
            begin(shrink, goal)
    with pytest.raises(ValueError, match=r"planner.schedule is 'shrinks'; allowed: fixed, shrink"):
        replace(FLAT, schedule="shrinks").check(1)
    for landmarks in ("direct", "search"):
        with pytest.raises(ValueError, match=rf"planner.schedule is 'shrink'; allowed: fixed, for .* '{landmarks}'"):
            stack_planner(agent, schedule="shrink", landmarks=landmarks)


def exactly(error=0.02):
    readout = Itself()
    readout.prediction_error = torch.full((2,), error)
    return [readout]


def test_a_flat_planner_arrives_when_it_said_it_would(exact):
    """With the exact model, whatever the distance: every step leaves one less, or the search finds a shorter way."""
    position, target = torch.tensor([[0.1, 0.1], [0.1, 0.5]]), torch.tensor([[0.5, 0.1], [0.2, 0.5]])
    config = replace(FLAT, schedule="shrink", replan=[1], repeat=[1], budget=4000, std=[1.0], warm_start=True)
    planner = begin(HierarchicalPlanner(exact, config, LOW, HIGH), PartGoal(target, exactly(0.03)))
    plans, path = path_of(planner, position, 20)
    left = torch.stack([plan.steps[0].horizon for plan in plans])  # (20, 2)
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
    config = {"schedule": "shrink", "landmarks": "none", "proposal": ["inverse+search"] * 3, "budget": 400}
    # the top level always thinks that it is there; the middle one never does
    planner = begin(stack_planner(agent, **config), part_goal(agent, where, (0.0, 0.1, 1e9)))
    plan = planner.plan({"state": points(4, 1)})
    assert [part.horizon.tolist() for part in plan.steps] == [[0] * 4, [2] * 4, [4] * 4]
    middle = plan.steps[1]
    torch.testing.assert_close(middle.energy, planner.goal.energy(1, middle.predicted).amin(1))
    assert torch.equal(middle.target, plan.steps[2].subgoal)
    # the step after its arrival is one too many for the top level, whose horizon is one step from now on
    planner.step = 6
    assert counted(planner.schedule, 2, 0, 4) == [1] * 4
    planner.keep(torch.tensor([1, 3]))
    assert planner.schedule.goal is planner.goal
    assert planner.parts[1].horizon.tolist() == [2, 2]


def test_whole_observations_are_handed_to_the_inverse_model_once_a_level_is_skipped(agent):
    shrinking = agent.with_planner(landmarks="none", schedule="shrink", budget=400, proposal=["inverse+search"] * 3)
    shrinking.goal_errors = [torch.zeros(()), torch.zeros(()), torch.tensor(1e9)]
    shrinking.reset(points(3).numpy())
    shrinking.act(points(3, 1).numpy())
    goal = agent.hierarchy.encode({"state": points(3)})
    assert torch.equal(shrinking.plan.steps[1].target, goal[2])
    assert torch.equal(shrinking.plan.steps[0].target, shrinking.plan.steps[1].subgoal)


def test_a_waypoint_of_one_episode_leaves_the_others_their_dates(exact):
    """Two episodes in a batch: the second plans as it would alone when the first one reaches its waypoint."""
    config = replace(FLAT, schedule="shrink", replan=[1], budget=2000, repeat=[1])
    places = [torch.tensor([[0.3, 0.5], [0.9, 0.5]]), torch.tensor([[0.9, 0.5], [0.1, 0.5]])]
    goal = InOrder([PartGoal(place, exactly()) for place in places], tolerance=0.03**2)
    planner = begin(HierarchicalPlanner(exact, config, LOW, HIGH), goal)
    planner.plan({"state": torch.tensor([[0.1, 0.5], [0.6, 0.5]])})
    before = planner.schedule.arrival[0].clone()
    assert before.isfinite().all()
    planner._observe([torch.tensor([[0.3, 0.5], [0.6, 0.5]])])
    assert planner.goal.at.tolist() == [1, 0]
    assert planner.schedule.arrival[0].tolist() == [torch.inf, before[1].item()]


def test_every_level_plans_anew_at_a_waypoint(agent):
    places = [torch.tensor([[0.2, 0.2]]), torch.tensor([[0.8, 0.8]])]
    latents = [agent.hierarchy.encode({"state": place}) for place in places]
    goal = InOrder([ObservationGoal(latent) for latent in latents], tolerance=1e-3)
    for changes in ({"landmarks": "none"}, {"landmarks": "direct"}):
        planner = begin(stack_planner(agent, replan=[3, 3, 6], **changes), goal)
        planner.plan({"state": torch.tensor([[0.6, 0.2]])})
        for _ in range(2):
            planner.plan({"state": torch.tensor([[0.5, 0.2]])})
        plan = planner.plan({"state": places[0]})  # level 2 is not due
        assert planner.goal.at.item() == 1
        assert [part.made_at for part in plan.steps] == [3, 3, 3]
        if planner.ways is not None:
            last = agent.graphs[2].nearest(latents[1][2])
            assert planner.navigator.goal_node.tolist() == last.tolist()


def test_another_waypoint_begins_with_the_whole_horizon(exact):
    places = [torch.tensor([[x, 0.5]]) for x in (0.3, 0.9)]
    goal = InOrder([PartGoal(place, exactly()) for place in places], tolerance=0.03**2)
    config = replace(FLAT, schedule="shrink", replan=[1], budget=2000, repeat=[1])
    planner = begin(HierarchicalPlanner(exact, config, LOW, HIGH), goal)
    plans, _ = walk(planner, torch.tensor([[0.1, 0.5]]), 12)
    horizons = [plan.steps[0].horizon.item() for plan in plans]
    assert planner.goal.at.item() == 1
    assert planner.schedule.goal is planner.goal
    assert horizons[0] == 20
    assert min(horizons) <= 3
    first = horizons.index(min(horizons))
    assert 20 in horizons[first:]


def test_a_fixed_schedule_tells_no_horizon(agent):
    plan = start(stack_planner(agent), points(2)).plan({"state": points(2, 1)})
    assert all(part.horizon is None for part in plan.steps)
