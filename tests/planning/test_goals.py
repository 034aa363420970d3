import numpy as np
import pytest
import torch

from hiwm.heads.state_readout import StateReadout
from hiwm.planning.goals import (
    AnyOf,
    BoxRegion,
    Goal,
    KeepOut,
    LabelledRegion,
    ObservationGoal,
    PartGoal,
    PredicateRegion,
    Sum,
    Waypoints,
    distance_to,
    in_steps,
)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def readout():
    """Of latents of six numbers; the two numbers it reads differ tenfold in their units."""
    torch.manual_seed(0)
    readout = StateReadout(dim_latent=6, dim=2, width=8, depth=1).eval().requires_grad_(False)
    readout.mean.copy_(torch.tensor([0.0, 5.0]))
    readout.std.copy_(torch.tensor([1.0, 10.0]))
    return readout


def goals(readout):
    both = [readout, readout]
    low = readout.mean + readout.std * random(4, 2, seed=4)
    box = BoxRegion(low, low + 2 * readout.std, both)
    return {
        "observation": ObservationGoal([random(4, 6, seed=1), random(4, 6, seed=2)]),
        "part": PartGoal(random(4, 2, seed=3), both),
        "region": box,
        "region with a Cauchy scale": BoxRegion(low, low + 2 * readout.std, both, cauchy_scale=0.5),
        "any": AnyOf([PartGoal(random(4, 2, seed=3), both), box]),
        "sum": Sum([PartGoal(random(4, 2, seed=3), both), box], [1.0, 0.5]),
        "in order": Waypoints([box, PartGoal(random(4, 2, seed=3), both)], 0.1, current=torch.tensor([0, 1, 0, 1])),
        "keep out": KeepOut(PartGoal(random(4, 2, seed=3), both), box, 0.1),
        "in steps": converted(KeepOut(PartGoal(random(4, 2, seed=3), both), box, 0.1)),
    }


def converted(goal, real=None, write=lambda level, latents, part: None):
    return in_steps(goal, {1: random(30, 6, seed=5) if real is None else real}, {1: torch.tensor(0.7)}, write)


@pytest.mark.parametrize(
    "name",
    ["observation", "part", "region", "region with a Cauchy scale", "any", "sum", "in order", "keep out", "in steps"],
)
def test_every_goal_measures_each_episode_by_itself(readout, name):
    goal, latent = goals(readout)[name], random(4, 5, 7, 6)
    cost = goal.cost(1, latent)
    assert cost.shape == (4, 5, 7)
    assert cost.min() >= 0
    assert goal.size == 4
    torch.testing.assert_close(goal.cost(1, latent[:, 2, 3]), cost[:, 2, 3])
    rows = torch.tensor([2, 0])
    kept = goal.select(rows)
    assert kept.size == 2
    torch.testing.assert_close(kept.cost(1, latent[rows]), cost[rows])
    if (entered := goal.violation(1, latent)) is not None:
        assert entered.shape == (4, 5, 7)
        assert entered.min() < 0 < entered.max()
        torch.testing.assert_close(kept.violation(1, latent[rows]), entered[rows])


class Plain(torch.nn.Module):
    """A readout that predicts the latent itself."""

    std = torch.tensor([1.0, 10.0])

    def forward(self, latent):
        return latent


class Exact(Plain):
    """In units of the data, up to an error of 0.1."""

    std, prediction_error = torch.ones(2), torch.full((2,), 0.1)


def part(*wanted):
    return PartGoal(torch.tensor([wanted]), [Exact(), Exact()])


def test_a_part_goal_in_steps_is_the_way_to_the_nearest_real_latent_that_meets_it():
    """Latents are (steps along a corridor, what is wanted); from place 0, where it is nearly met, it is nine steps away."""
    real = torch.tensor([[float(i), float(i == 9)] for i in [*range(10), *5 * [9]]])
    plain = part(torch.nan, 1.0)
    goal = converted(plain, real)
    latent = torch.tensor([[[0.0, 0.8], [4.0, 0.0], [9.0, 1.0], [2.0, 0.95]]])
    assert goal.cost(1, latent)[0].tolist() == pytest.approx([9.2, 6.0, 0.0, 0.0])  # the last meets it
    assert goal.cost(0, latent).tolist() == plain.cost(0, latent).tolist()
    assert goal.reached_cost(1).item() == pytest.approx(0.7)
    assert goal.more_accurate_than_above(0).tolist() == [True]
    assert (goal.latent(1), goal.kind) == (None, "PartGoal")


def written(level, latents, part):
    return torch.where(part.isnan().unsqueeze(1), latents, part.unsqueeze(1))


def test_a_goal_that_no_real_latent_meets_is_written_into_those_nearest_to_it():
    """Latents are (steps along a corridor, what is wanted), which no real one has."""
    real = torch.tensor([[float(i), 0.0] for i in range(10)])
    latent = torch.tensor([[[4.0, 0.0], [4.0, 1.0], [12.0, 0.0]]])
    assert converted(part(torch.nan, 1.0), real).cost(1, latent).tolist() == [[0, 0, 3]]
    assert converted(part(torch.nan, 1.0), real, written).cost(1, latent).tolist() == [[1, 0, 4]]
    met = torch.cat([real, torch.tensor([[9.0, 1.0]])])
    assert converted(part(torch.nan, 1.0), met, written).cost(1, latent).tolist() == [[6, 0, 4]]
    beyond = BoxRegion(torch.tensor([[-1.0, 0.5]]), torch.tensor([[8.5, 2.0]]), [Exact(), Exact()])
    goal = converted(KeepOut(part(torch.nan, 1.0), beyond, 0.0), real, written)
    assert goal.cost(1, latent[:, 2:]).tolist() == [[4]]  # only (9, 1) is allowed
    assert goal.select(torch.tensor([0])).cost(1, latent[:, :1]).tolist() == [[6]]


def test_each_episode_has_its_own_written_goal():
    real = torch.tensor([[float(i), 0.0] for i in range(100)])
    wanted = PartGoal(torch.tensor([[torch.nan, 0.0], [7.0, 1.0], [torch.nan, 1.0]]), [Exact(), Exact()])
    goal = converted(wanted, real, written)
    assert goal.cost(1, torch.tensor([[4.0, 3.0]] * 3)).tolist() == [3, 3 + 2, 2]
    assert goal.select(torch.tensor([1])).cost(1, torch.tensor([[4.0, 3.0]])).tolist() == [5]


def test_where_all_that_is_written_is_forbidden_the_nearest_real_latent_stays():
    real = torch.tensor([[float(i), 0.0] for i in range(10)])
    everywhere = BoxRegion(torch.tensor([[-1.0, 0.5]]), torch.tensor([[99.0, 2.0]]), [Exact(), Exact()])
    goal = converted(KeepOut(part(7.0, 1.0), everywhere, 0.0), real, written)
    assert goal.cost(1, torch.tensor([[4.0, 0.0]])).tolist() == [3]
    assert goal.nearest(1, torch.tensor([[4.0, 0.0]])).tolist() == [[7, 0]]
    world = BoxRegion(torch.tensor([[-1.0, -1.0]]), torch.tensor([[99.0, 2.0]]), [Exact(), Exact()])
    plain = KeepOut(part(7.0, 1.0), world, 0.0)
    goal = converted(plain, real, written)
    here = torch.tensor([[4.0, 0.0]])
    assert goal.cost(1, here).tolist() == plain.cost(1, here).tolist()
    assert not goal.has_latent(1)


def test_combinations_know_the_nearest_latent_where_all_their_goals_do():
    here = torch.tensor([[8.0, 18.0], [2.0, 2.0]])
    ends = [PartGoal(torch.tensor([[x, x]] * 2), [Exact(), Exact()]) for x in (0.0, 19.0)]
    either = converted(AnyOf(ends), GRID)
    assert either.has_latent(1)
    assert either.nearest(1, here).tolist() == [[19, 19], [0, 0]]
    way = converted(Waypoints(ends, 0.1, current=torch.tensor([1, 0])), GRID)
    assert way.has_latent(1)
    assert way.nearest(1, here).tolist() == [[19, 19], [0, 0]]
    far = BoxRegion(torch.full((2, 2), 50.0), torch.full((2, 2), 60.0), [Exact(), Exact()])
    assert converted(KeepOut(AnyOf(ends), far), GRID).nearest(1, here).tolist() == [[19, 19], [0, 0]]
    both = converted(Sum(ends, [1.0, 1.0]), GRID)
    assert not both.has_latent(1)
    assert both.nearest(1, here) is None
    for goal in (AnyOf(ends), Waypoints(ends, 0.1)):
        assert not goal.has_latent(1)
        assert goal.nearest(1, here) is None


def test_a_goal_in_steps_leads_to_the_nearest_latent_that_meets_it():
    real = torch.tensor([[0.0, 1.0], [4.0, 0.0], [6.0, 1.0], [7.0, 1.0]])
    goal = converted(PartGoal(torch.tensor([[torch.nan, 1.0]] * 2), [Exact(), Exact()]), real)
    here = torch.tensor([[4.0, 0.0], [1.0, 0.0]])
    assert [goal.has_latent(k) for k in (0, 1)] == [False, True]
    assert goal.nearest(0, here) is None
    assert goal.nearest(1, here).tolist() == [[6, 1], [0, 1]]
    whole = ObservationGoal([torch.ones(2, 2)] * 2, p=(2, 1))
    assert whole.has_latent(1)
    assert whole.nearest(1, here).tolist() == [[1, 1]] * 2


GRID = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0))


def test_all_that_meets_a_goal_counts():
    column = converted(part(10.0, torch.nan), GRID)
    assert column.cost(1, torch.tensor([[8.0, 18.0]])).tolist() == [2]
    box = converted(BoxRegion(torch.tensor([[3.0, 3.0]]), torch.tensor([[9.0, 9.0]]), [Exact(), Exact()]), GRID)
    assert box.cost(1, torch.tensor([[3.2, 8.8]])).tolist() == [0]  # within, and at no real latent
    assert box.cost(1, torch.tensor([[6.0, 11.0]])).tolist() == [2]


def test_each_goal_of_a_combination_is_in_steps():
    whole = ObservationGoal([torch.full((1, 2), 0.5)] * 2, p=(2, 1))
    corner, hall = part(19.0, 19.0), BoxRegion(torch.zeros(1, 2), torch.full((1, 2), 4.0), [Exact(), Exact()])
    place = torch.tensor([[18.0, 19.0]])
    assert converted(AnyOf([corner, hall]), GRID).cost(1, place).tolist() == [1]
    assert converted(Sum([corner, whole], [1.0, 2.0]), GRID).cost(1, place).tolist() == [1 + 2 * (17.5 + 18.5)]
    way = converted(Waypoints([hall, corner], 0.1, current=torch.tensor([1])), GRID)
    assert way.cost(1, place).tolist() == [1]
    assert converted(AnyOf([whole, whole]), GRID).cost(1, place).tolist() == [17.5 + 18.5]
    assert converted(whole, GRID) is whole
    kept_out = converted(KeepOut(AnyOf([corner, hall]), hall), GRID)
    assert kept_out.cost(1, place).tolist() == [1]
    assert kept_out.violation(1, place).tolist() == [-15]


def test_the_nearest_latent_stands_for_a_goal_that_knows_no_error():
    class Left(Goal):
        size = 1

        def cost(self, level, latent):
            return latent[..., 0]

        def select(self, rows):
            return self

    goal = converted(Left(), torch.tensor([[float(i), 0.0] for i in range(20)]))
    assert goal.states[1][goal.meets[1]][:, 0].tolist() == [0]
    assert goal.kind == "Left"
    with pytest.raises(ValueError, match=r"but Left does not implement reached_cost\(level\)"):
        goal.reached_cost(0)


def test_a_goal_in_steps_is_the_goal_itself_at_other_levels():
    goal = PartGoal(random(4, 2, seed=3), [Exact(), Exact()])
    steps = converted(goal, GRID)
    assert torch.equal(steps.cost(0, random(4, 2)), goal.cost(0, random(4, 2)))
    assert torch.equal(steps.reached_cost(0), goal.reached_cost(0))
    rows = torch.tensor([2, 0])
    assert torch.equal(steps.select(rows).part, goal.part[rows])


def test_a_goal_in_steps_moves_with_its_goal():
    class Moving(PartGoal):
        moves = True

        def observe(self, latents):
            moved = torch.ones(self.size, dtype=torch.bool)
            return Moving(self.part + 1, self.readouts), moved

    goal = converted(Moving(torch.tensor([[4.0, 4.0]]), [Exact(), Exact()]), GRID)
    moved, changed = goal.observe([random(1, 2), random(1, 2)])
    assert goal.moves
    assert changed.all()
    assert moved.cost(1, torch.tensor([[5.0, 6.0]])).tolist() == [1]
    still = converted(part(4.0, 4.0), GRID)
    assert still.observe([random(1, 2), random(1, 2)])[0] is still


@pytest.mark.parametrize(("last", "targets"), [(20, [5]), (4, [])])
def test_a_goal_in_steps_leads_to_no_forbidden_latent(last, targets):
    real = torch.tensor([[float(i), 0.0] for i in range(last)])
    box = BoxRegion(torch.tensor([[-1.0, -9.0]]), torch.tensor([[4.5, 9.0]]), [Exact(), Exact()])
    goal = converted(KeepOut(part(1.0, torch.nan), box), real)
    assert goal.states[1][goal.meets[1]][:, 0].tolist() == targets
    place = torch.tensor([[4.0, 0.0]])
    assert goal.cost(1, place).tolist() == ([1] if targets else [9])  # without any, by its own cost


def test_goals_are_met_where_they_should_be(readout):
    latent = random(4, 6)
    whole = ObservationGoal([latent, 2 * latent])
    assert not whole.cost(1, 2 * latent).any()
    torch.testing.assert_close(whole.cost(0, 2 * latent), latent.square().sum(1))
    part = PartGoal(readout(latent), [readout])
    assert not part.cost(0, latent).any()
    assert part.latent(0) is None
    # in standard deviations of the data, so that units do not matter
    off = PartGoal(readout(latent) + readout.std, [readout])
    torch.testing.assert_close(off.cost(0, latent), torch.full((4,), 2.0), rtol=1e-3, atol=1e-4)


def test_with_a_cauchy_scale_the_number_that_is_nearly_right_is_finished_first():
    wanted = torch.tensor([[0.0, 0.0], [0.0, torch.nan]])
    squared, finishing = PartGoal(wanted, [Plain()]), PartGoal(wanted, [Plain()], 0.5)
    points = torch.tensor([[1.0, 20.0]]).expand(2, -1)
    expected = np.log1p(4), np.log1p(16)
    np.testing.assert_allclose(finishing.cost(0, points), [sum(expected), expected[0]], rtol=1e-5)
    np.testing.assert_allclose(finishing.select(torch.tensor([1])).cost(0, points[1:]), expected[:1], rtol=1e-5)
    # the same step towards the goal: of the near number, then of the far one
    near, far = torch.tensor([[0.0, 20.0]]).expand(2, -1), torch.tensor([[1.0, 10.0]]).expand(2, -1)
    assert finishing.cost(0, near)[0] < finishing.cost(0, far)[0]
    assert squared.cost(0, near)[0] > squared.cost(0, far)[0]
    # errors are costs of the same shape
    readout = Plain()
    readout.prediction_error = torch.tensor([1.0, 20.0])
    np.testing.assert_allclose(
        PartGoal(wanted, [readout], 0.5).reached_cost(0), [sum(expected), expected[0]], rtol=1e-5
    )


def test_the_distance_is_to_the_target_of_the_own_episode():
    points, target = random(3, 5, 2), random(3, 2, seed=1)
    expected = torch.stack([(points[i] - target[i]).square().sum(-1) for i in range(3)])
    torch.testing.assert_close(distance_to(target, points), expected)
    expected = torch.stack([(points[i] - target[i]).abs().sum(-1) for i in range(3)])
    torch.testing.assert_close(distance_to(target, points, p=1), expected)


def test_the_distance_to_an_observation_is_that_of_the_level():
    latents = [random(2, 3), random(2, 4, seed=1)]
    goal = ObservationGoal(latents, p=(2, 1)).select(torch.tensor([1]))
    points = random(1, 6, 4, seed=2)
    torch.testing.assert_close(goal.cost(1, points), (points - latents[1][1]).abs().sum(-1))
    torch.testing.assert_close(goal.cost(0, points[..., :3]), (points[..., :3] - latents[0][1]).square().sum(-1))


def test_a_region_is_reached_anywhere_within_and_has_a_depth():
    region = BoxRegion(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 40.0]]), [Plain()])
    points = torch.tensor([[[1.0, 10.0], [2.0, 40.0], [3.0, 20.0], [-1.0, 60.0]]])
    assert region.cost(0, points).tolist() == [[0, 0, 1, 1 + 4]]
    # from the nearest side, here in standard deviations: within, on a corner, and so far outside
    assert region.depth(0, points).tolist() == [[1, 0, -1, -2]]
    assert region.depth(0, points, 0.25).tolist() == [[1.25, 0.25, -0.75, -1.75]]
    half = BoxRegion(torch.tensor([[-torch.inf, 5.0]]), torch.tensor([[torch.inf, torch.inf]]), [Plain()])
    assert half.cost(0, torch.tensor([[9.0, 5.0], [9.0, -5.0]])[None]).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="expected low <= high"):
        BoxRegion(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), [Plain()])
    with pytest.raises(ValueError, match=r"the goal has the shape \(1, 1\); expected \(batch, 2\)"):
        BoxRegion(torch.tensor([[1.0]]), torch.tensor([[0.0]]), [Plain()])
    with pytest.raises(ValueError, match=r"the goal has the shape \(3,\); expected \(batch, 2\)"):
        PartGoal(torch.zeros(3), [Plain()])


def test_a_region_may_have_a_cauchy_scale():
    wide = BoxRegion(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 40.0]]), [Plain()], 0.5)
    np.testing.assert_allclose(wide.cost(0, torch.tensor([[[3.0, 20.0], [1.0, 20.0]]])), [[np.log(5), 0]], rtol=1e-6)


def test_waypoints_that_are_observations_are_latents():
    waypoints = [ObservationGoal([torch.full((2, 1), place)]) for place in (1.0, 2.0)]
    assert Waypoints(waypoints, 0.1, current=torch.tensor([0, 1])).latent(0).tolist() == [[1.0], [2.0]]
    assert Waypoints([waypoints[0], PartGoal(torch.zeros(2, 2), [Plain()])], 0.1).latent(0) is None


def test_part_of_a_part_may_not_matter():
    goal = PartGoal(torch.tensor([[3.0, torch.nan]]), [Plain()])
    assert goal.cost(0, torch.tensor([[[3.0, 70.0], [1.0, 0.0]]])).tolist() == [[0, 4]]


def test_any_of_is_the_nearest_and_a_sum_is_weighted():
    parts = [PartGoal(torch.tensor([[x, 0.0]]), [Plain()]) for x in (0.0, 4.0)]
    here = torch.tensor([[3.0, 0.0]])
    assert AnyOf(parts).cost(0, here).tolist() == [1]
    assert Sum(parts, [1.0, 0.5]).cost(0, here).tolist() == [9.5]
    with pytest.raises(ValueError, match=r"goals for \[1, 2\] episodes"):
        Sum([parts[0], PartGoal(torch.zeros(2, 2), [Plain()])])
    with pytest.raises(ValueError, match="1 weights for 2 goals"):
        Sum(parts, [1.0])


def test_waypoints_come_one_after_another_and_the_last_stays():
    waypoints = [PartGoal(torch.tensor([[x, 0.0], [x, 0.0]]), [Plain()]) for x in (1.0, 2.0, 3.0)]
    goal = Waypoints(waypoints, tolerance=0.01)
    at = []
    for x, y in ((0.0, 3.0), (1.05, 1.0), (1.5, 1.5), (2.0, 3.0), (3.0, 3.0), (3.0, 3.0)):  # the second never passes 2
        before = goal.current
        # a level above, at the last waypoint already, is not asked
        goal, changed = goal.observe([torch.tensor([[x, 0.0], [y, 0.0]]), torch.tensor([[3.0, 0.0], [3.0, 0.0]])])
        assert torch.equal(changed, goal.current != before)
        at.append(goal.current.tolist())
    assert at == [[0, 0], [1, 1], [1, 1], [2, 1], [2, 1], [2, 1]]
    with pytest.raises(ValueError, match="a waypoint is itself made of Waypoints"):
        Waypoints([waypoints[0], Sum([goal, waypoints[1]])], tolerance=0.01)
    assert goal.cost(0, torch.tensor([[3.0, 0.0], [3.0, 0.0]])).tolist() == [0, 1]
    assert goal.select(torch.tensor([1])).current.tolist() == [1]


def test_violations_include_the_margin():
    box = BoxRegion(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 40.0]]), [Plain()])
    points = torch.tensor([[[1.0, 20.0], [2.5, 20.0], [3.0, 20.0]]])
    reach = PartGoal(torch.tensor([[1.0, 20.0]]), [Plain()])
    assert reach.violation(0, points) is None
    assert KeepOut(reach, box).violation(0, points).tolist() == [[1, -0.5, -1]]
    torch.testing.assert_close(KeepOut(reach, box, 0.6).violation(0, points), torch.tensor([[1.6, 0.1, -0.4]]))
    first = Waypoints([KeepOut(reach, box), reach], tolerance=0.0)
    assert first.violation(0, points).tolist() == [[1, -0.5, -1]]
    then = Waypoints([KeepOut(reach, box), reach], tolerance=0.0, current=torch.tensor([1]))
    assert (then.violation(0, points) <= 0).all()  # waypoint 2 forbids nothing
    assert Waypoints([reach, reach], tolerance=0.0).violation(0, points) is None
    for wrong, message in (
        ((box, reach), "is a PartGoal; expected a Region"),
        ((reach, box, -1.0), "margin is -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            KeepOut(*wrong)
    both = Sum([KeepOut(reach, box), KeepOut(reach, box, 0.6)])
    torch.testing.assert_close(both.violation(0, points), torch.tensor([[1.6, 0.1, -0.4]]))  # the worst of them
    assert torch.equal(KeepOut(reach, box).cost(0, points), reach.cost(0, points))


def test_labelled_states_forbid_what_is_nearer_to_a_forbidden_one():
    labels = torch.tensor([True, False, False])
    region = LabelledRegion(
        torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 80.0]]), labels, [Plain()]
    )  # standard deviations 1 and 20
    points = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 60.0]]])
    # on the line between two states the depth is the distance from the border, at 2 standard deviations
    torch.testing.assert_close(region.depth(0, points)[0], torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0]))
    torch.testing.assert_close(region.depth(0, points, 0.5)[0], torch.tensor([2.5, 1.5, 0.5, -0.5, -1.5]))
    reach = PartGoal(torch.tensor([[4.0, 0.0]]), [Plain()])
    goal = KeepOut(reach, region, 0.5)
    assert torch.equal(goal.violation(0, points), region.depth(0, points, 0.5))
    assert goal.select(torch.tensor([0, 0])).violation(0, points.repeat(2, 1, 1)).shape == (2, 5)
    with pytest.raises(ValueError, match="all states have the same label"):
        LabelledRegion(torch.zeros(2, 2), torch.tensor([True, True]), [Plain()])
    with pytest.raises(ValueError, match=r"expected \(N, 2\) with \(N,\) booleans, true"):
        LabelledRegion(torch.zeros(2, 2), torch.tensor([1, 0]), [Plain()])


def test_a_predicate_forbids_where_it_holds():
    columns = {"x": (), "y": (1,)}
    reach = PartGoal(torch.tensor([[4.0, 0.0]]), [Plain()])
    points = torch.tensor([[[0.0, 7.0], [1.0, 5.0], [2.0, 3.0]]])
    yes_or_no = PredicateRegion(lambda part: (part["x"] > 0.5) & (part["y"][..., 0] > 4), columns, [Plain()])
    assert KeepOut(reach, yes_or_no).violation(0, points).tolist() == [[-1, 1, -1]]
    deep = PredicateRegion(lambda part: part["x"] - 1.5, columns, [Plain()])
    assert KeepOut(reach, deep).violation(0, points).tolist() == [[-1.5, -0.5, 0.5]]
    assert KeepOut(reach, deep, 1.0).violation(0, points).tolist() == [[-0.5, 0.5, 1.5]]
    with pytest.raises(ValueError, match=r"margin is 1.0; expected 0, because the predicate returns booleans"):
        KeepOut(reach, yes_or_no, 1.0).violation(0, points)
    with pytest.raises(ValueError, match=r"the predicate reads 'z'; expected one of \['x', 'y'\]"):
        PredicateRegion(lambda part: part["z"], columns, [Plain()]).depth(0, points)
    with pytest.raises(ValueError, match=r"returns the shape \(1, 3, 1\); expected \(1, 3\)"):
        PredicateRegion(lambda part: part["y"], columns, [Plain()]).depth(0, points)


def test_what_is_forbidden_stays_so_past_a_waypoint():
    box = BoxRegion(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 40.0]]), [Plain()])
    way = Waypoints([PartGoal(torch.tensor([[x, 0.0]]), [Plain()]) for x in (4.0, 8.0)], tolerance=0.01)
    inside, there = torch.tensor([[1.0, 20.0]]), torch.tensor([[4.0, 0.0]])
    for goal in (KeepOut(way, box), AnyOf([KeepOut(way, box)]), Sum([KeepOut(way, box)])):
        assert goal.moves
        same, changed = goal.observe([inside])
        assert same is goal
        assert not changed.any()
        then, changed = goal.observe([there])
        assert changed.tolist() == [True]
        assert then.cost(0, torch.tensor([[8.0, 0.0]])).tolist() == [0]
        assert then.violation(0, inside).tolist() == [1]
