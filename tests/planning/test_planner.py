from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from torch_geometric.data import Data

from hiwm.agent import Agent
from hiwm.config import load_config
from hiwm.data.store import open_dataset
from hiwm.heads.action_bank import ActionBank
from hiwm.heads.heads import Heads
from hiwm.hierarchy import Hierarchy, LevelSpec
from hiwm.levels.parts import Predictor
from hiwm.levels.precision import half_precision
from hiwm.planning.config import PlannerConfig
from hiwm.planning.goals import (
    InOrder,
    KeepOut,
    LabelledStates,
    ObservationGoal,
    PartGoal,
    Region,
    Where,
    squared_distance,
)
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.planning.planner import HierarchicalPlanner
from hiwm.planning.proposals import FREE, PROPOSALS, Mixture, SearchSpace
from hiwm.planning.search import LevelSearch

STEP = 0.05
SOLVERS = sorted((tiny.ROOT / "configs" / "solver").glob("*.yaml"))
LOW, HIGH = torch.full((2,), -1.0), torch.full((2,), 1.0)
STACK = PlannerConfig(
    landmarks="direct",
    hops=1,
    budget=200,
    proposal=["inverse", "inverse", "gaussian"],
    horizon=[10, 5, 4],
    replan=[1, 5, 10],
    repeat=[1, 1, 1],
    std=[0.7, 1.0, 1.0],
    inverse_std=[0.15, 0.5, 0.5],
    macro_bound=2.5,
    solver={"_target_": "hiwm.planning.solvers.cem.CEM"},
)
FLAT = replace(STACK, landmarks="none", proposal=["gaussian"], horizon=[20], replan=[5], repeat=[5])


class Linear(Predictor):
    """z' = z + 0.05 a: the room without its wall, exactly."""

    def forward(self, latent, action):
        return latent + STEP * action


class Counting(Predictor):
    """A part that counts the rows it is given; as a predictor it rolls out step by step."""

    def __init__(self, part):
        super().__init__(1)
        self.part, self.count = part, 0

    def forward(self, first, *others):
        rows = first["latent"] if isinstance(first, dict) and "latent" in first else first
        rows = rows["state"] if isinstance(rows, dict) else rows
        self.count += rows.shape[:-1].numel()
        return self.part(first, *others)


@pytest.fixture
def exact():
    """One level whose latent is the position and whose predictor is right."""
    spec = LevelSpec(load_config([]).levels["level0"], 1, {"state": (2,)}, 2, "exact")
    level = spec.build()
    level.predictor = Linear(2)
    return Hierarchy([level], [spec]).eval().requires_grad_(False)


def start(planner, goal, seed=0):
    whole = ObservationGoal(planner.hierarchy.encode({"state": goal}))
    planner.start(whole, torch.Generator().manual_seed(seed))
    return planner


def points(number, seed=0):
    return torch.rand(number, 2, generator=torch.Generator().manual_seed(seed))


def stack_planner(agent, **changes):
    """A planner over the trained tiny stack."""
    config = replace(agent.config, **changes)
    return HierarchicalPlanner(agent.hierarchy, config, LOW, HIGH, agent.heads, agent.graphs)


def walk(planner, state, steps):
    """Plans while walking through the room without walls."""
    plans = []
    for _ in range(steps):
        plans.append(planner.plan({"state": state}))
        state = (state + STEP * plans[-1].action).clamp(0, 1)
    return plans, state


def test_flat_planner_with_exact_dynamics_reaches_its_goal(exact):
    position, goal = points(6, 1), points(6, 2)
    assert (position - goal).norm(dim=1).max() > 0.7  # fourteen steps of full length
    planner = start(HierarchicalPlanner(exact, FLAT, LOW, HIGH), goal)
    plans, _ = walk(planner, position, 40)
    path = position + STEP * torch.stack([plan.action for plan in plans]).cumsum(0)
    assert (path - goal).norm(dim=2).amin(0).max() < 0.05  # arrival ends an episode: the closest counts
    assert all(plan.action.abs().max() <= 1 for plan in plans)


def test_predictions_are_those_of_the_actions_and_energy_is_the_least_distance(exact):
    position, goal = points(3, 1), points(3, 2)
    part = start(HierarchicalPlanner(exact, FLAT, LOW, HIGH), goal).plan({"state": position}).steps[0]
    expected = position.unsqueeze(1) + STEP * part.actions.cumsum(1)
    torch.testing.assert_close(part.predicted, expected)
    torch.testing.assert_close(part.energy, (expected - goal.unsqueeze(1)).square().sum(-1).amin(1))
    assert torch.equal(part.subgoal, part.predicted[:, 0])
    assert torch.equal(part.target, goal)
    # actions are held for five steps in a search
    assert torch.equal(part.actions, part.actions[:, ::5].repeat_interleave(5, 1))


def test_actions_stay_within_the_bounds_of_the_data(exact):
    planner = start(HierarchicalPlanner(exact, FLAT, 0.1 * LOW, 0.2 * HIGH), points(4, 2))
    actions = torch.cat([part.steps[0].actions for part in walk(planner, points(4, 1), 6)[0]])
    assert actions.min() >= -0.1 - 1e-6
    assert actions.max() <= 0.2 + 1e-6
    assert actions.max() == pytest.approx(0.2)  # the bound is active


@pytest.mark.parametrize("half", [True, False])
def test_only_candidates_are_predicted_in_half_precision(exact, monkeypatch, half):
    position, seen = points(3, 1), []
    rollout = LevelSearch._rollout

    def spy(search, latent, carried, choices):
        seen.append((len(latent), torch.is_autocast_enabled("cpu")))
        return rollout(search, latent, carried, choices)

    monkeypatch.setattr(LevelSearch, "_rollout", spy)
    planner = start(HierarchicalPlanner(exact, replace(FLAT, half_precision=half), LOW, HIGH), points(3, 2))
    planner.plan({"state": position})
    supported = isinstance(half_precision(torch.device("cpu")), torch.autocast)
    assert {autocast for batch, autocast in seen if batch > 3} == {half and supported}
    assert [autocast for batch, autocast in seen if batch == 3] == [False]  # the way that is chosen


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"proposal": ["gaussian"] * 3},
        {"landmarks": "none"},
        {"landmarks": "search"},
        {"landmarks": "search", "proposal": ["inverse", "inverse+search", "gaussian"]},
        {"landmarks": "none", "proposal": ["gaussian", "inverse", "gaussian"], "budget": 400},
        {"replan": [6, 6, 6], "budget": 60},
        {"landmarks": "none", "proposal": ["bank", "gaussian", "bank"], "budget": 400},
        {
            "landmarks": "none",
            "proposal": ["inverse+search+bank", "gaussian+inverse+bank", "gaussian+bank"],
            "budget": 400,
        },
    ],
)
def test_predictor_calls_stay_within_the_budget(agent, changes):
    counters, others = [], []
    for level in agent.hierarchy.levels:
        level.predictor = Counting(level.predictor)
        level.encoder, level.inverse = Counting(level.encoder), Counting(level.inverse)
        counters.append(level.predictor)
        others += [level.encoder, level.inverse]
    planner = stack_planner(agent, **changes)
    batch, steps = 3, 12
    planner = start(planner, points(batch, 2))
    for counter in others:
        counter.count = 0
    plans, _ = walk(planner, points(batch, 1), steps)
    budget = planner.config.budget
    reported = sum(plan.predictor_calls for plan in plans) / steps
    made = sum(counter.count for counter in counters) / batch / steps
    assert reported == pytest.approx(budget, rel=0.15)
    assert made == pytest.approx(budget, rel=0.15)
    assert reported <= made <= 1.05 * reported  # what a solution is drawn with comes on top
    assert sum(plan.other_calls for plan in plans) == sum(counter.count for counter in others) / batch


def test_following_the_inverse_models_costs_their_horizon(agent):
    planner = stack_planner(agent, proposal=["inverse"] * 3, horizon=[6, 2, 4], replan=[3, 3, 6], budget=1)
    assert [level.samples for level in planner.levels] == [0, 0, 0]
    plans, _ = walk(start(planner, points(2, 2)), points(2, 1), 6)
    # the top level is handed its landmark; below, one candidate each
    assert [plan.predictor_calls for plan in plans] == [8, 0, 0, 8, 0, 0]


def test_parts_are_kept_between_their_replans(agent):
    planner = start(stack_planner(agent), points(2, 2))
    plans, _ = walk(planner, points(2, 1), 13)
    for k, every in enumerate(planner.config.replan):
        for step, plan in enumerate(plans):
            part = plan.steps[k]
            assert part.level == k
            assert part.made_at == step - step % every
            assert step == 0 or (part is plans[step - 1].steps[k]) == (step % every != 0)
    for step, plan in enumerate(plans):  # between replans the sequence of actions is played as planned
        assert torch.equal(plan.action, plan.steps[0].actions[:, step % 3])


def test_each_level_aims_at_the_subgoal_of_the_level_above(agent):
    for landmarks in ("direct", "search", "none"):
        plan = start(stack_planner(agent, landmarks=landmarks), points(2, 2)).plan({"state": points(2, 1)})
        for k in (0, 1):
            assert torch.equal(plan.steps[k].target, plan.steps[k + 1].subgoal)
            assert plan.steps[k].target_level == k + 1
        assert plan.steps[2].target_level == 2
        assert [part.due for part in plan.steps[:2]] == [1, 3]
        assert (plan.steps[2].actions is None) == (landmarks == "direct")


def test_direct_targets_are_landmarks_or_the_goal_itself(agent):
    graph = agent.graphs[-1]
    goal = points(8, 2)
    planner = start(stack_planner(agent), goal)
    plans, _ = walk(planner, points(8, 1), 25)
    own = agent.hierarchy.encode({"state": goal})[-1]
    goals = landmarks = 0
    for plan in plans[::6]:
        part = plan.steps[2]
        assert part.actions is part.predicted is part.energy is None
        assert torch.equal(part.subgoal, part.target)
        assert part.due == graph.edge_steps
        is_goal = (part.target == own).all(1)
        is_landmark = (part.target.unsqueeze(1) == graph.latents).all(2).any(1)
        assert (is_goal | is_landmark).all()
        goals, landmarks = goals + int(is_goal.sum()), landmarks + int(is_landmark.sum())
    assert goals
    assert landmarks


def test_a_target_is_the_successor_of_the_nearest_landmark(agent, tiny_run):
    """Standing on a landmark, the target is the next one on the shortest path; hops=2, the one after."""
    graph = agent.graphs[-1]
    by_row = {int(row): i for i, row in enumerate(graph.data.row)}
    rows = sorted(by_row)
    states = torch.from_numpy(open_dataset(tiny_run.config.dataset.path).column("state")[rows].copy())
    goal = states[:1].expand(len(rows), 2)
    own = agent.hierarchy.encode({"state": goal})[-1]
    for hops in (1, 2):
        planner = start(stack_planner(agent, hops=hops), goal)
        part = planner.plan({"state": states}).steps[2]
        cost = graph.cost_to_go(torch.tensor([by_row[rows[0]]]))
        following = graph.successors(cost)[:, 0]
        for i, row in enumerate(rows):
            landmark = by_row[row]
            for _ in range(hops):
                landmark = int(following[landmark])
            expected = own[i] if landmark == by_row[rows[0]] else graph.latents[landmark]
            near = torch.cdist(part.target[i : i + 1], expected.unsqueeze(0))
            # within half an edge of the goal's landmark, that counts as reached already
            at_goal = torch.cdist(graph.latents[by_row[row], None], graph.latents[by_row[rows[0]], None])
            assert near < 1e-5 or at_goal <= 0.5 * graph.edge_length


def test_keep_goes_on_with_the_same_plans(agent):
    goal, state = points(5, 2), points(5, 1)
    for rows in (torch.tensor([0, 3]), torch.tensor([True, False, False, True, False])):
        planner = start(stack_planner(agent), goal)
        (_, before), state_then = walk(planner, state, 2)
        planner.keep(rows)
        after = planner.plan({"state": state_then[rows]})
        for old, new in zip(before.steps, after.steps, strict=True):
            assert torch.equal(old.target[rows], new.target)
            assert torch.equal(old.subgoal[rows], new.subgoal)
            if old.actions is not None:
                assert torch.equal(old.actions[rows], new.actions)
                assert torch.equal(old.predicted[rows], new.predicted)
            assert old.made_at == new.made_at == 0
        assert torch.equal(after.action, before.steps[0].actions[rows, 2])
        # and replans for the goals of those it kept
        assert torch.equal(planner.goal.latent(2), agent.hierarchy.encode({"state": goal})[-1][rows])
        plans, _ = walk(planner, state_then[rows], 8)
        assert plans[-1].action.shape == (2, 2)
        assert plans[-1].steps[2].made_at == 6


def test_kept_environments_choose_landmarks_as_if_they_had_been_alone(agent):
    """The top level's choice uses no randomness, so it must not depend on who else is in the batch."""
    goal, state = points(6, 2), points(6, 1)
    together, alone = start(stack_planner(agent), goal), start(stack_planner(agent), goal[4:])
    together.plan({"state": state})
    alone.plan({"state": state[4:]})
    together.keep(torch.tensor([4, 5]))
    for planner in (together, alone):
        planner.step = 6
    there = points(2, 3)
    a, b = (planner.plan({"state": there}).steps[2] for planner in (together, alone))
    torch.testing.assert_close(a.target, b.target)


def test_what_a_plan_tells_may_be_differentiated(agent):
    planner = stack_planner(agent, landmarks="none", proposal=["inverse+search", "inverse+search", "gaussian"])
    start(planner, points(2))
    plan = planner.plan({"state": points(2, seed=1)})
    told = [value for part in plan.steps for value in vars(part).values()]
    told += [value for part in plan.steps if part.rejected is not None for value in vars(part.rejected).values()]
    tensors = [value for value in told if isinstance(value, torch.Tensor)]
    assert len(tensors) > 20
    assert not any(tensor.is_inference() for tensor in tensors)


def test_same_seed_same_actions(agent):
    runs = []
    for seed in (0, 0, 1):
        plans, _ = walk(start(stack_planner(agent), points(3, 2), seed), points(3, 1), 7)
        runs.append(torch.stack([plan.action for plan in plans]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"landmarks": "indirect"}, r"planner.landmarks is 'indirect'; allowed: none, direct, search"),
        ({"proposal": ["gaussian", "gaussian"]}, r"planner.proposal is .*3 levels"),
        ({"horizon": [10]}, r"planner.horizon is \[10\].*3 levels"),
        ({"replan": [5, 5]}, r"planner.replan is \[5, 5\].*3 levels"),
        ({"repeat": []}, r"planner.repeat is \[\].*3 levels"),
        ({"std": [1.0]}, r"planner.std is .*3 levels"),
        ({"inverse_std": [1.0]}, r"planner.inverse_std is .*3 levels"),
        ({"goal_weight": [1.0]}, r"planner.goal_weight is .*3 levels"),
        ({"goal_weight": [0.0, -1.0, 0.0]}, r"planner.goal_weight\[1\] is -1.0"),
        (
            {"proposal": ["gaussian", "guess", "gaussian"]},
            r"planner.proposal\[1\] is 'guess'; allowed: gaussian, inverse, inverse\+search, bank",
        ),
        ({"horizon": [10, 5, 4], "repeat": [5, 2, 1]}, r"planner.horizon\[1\] is 5.*repeat 2"),
        ({"replan": [4, 8, 10]}, r"planner.replan is \[4, 8, 10\].*multiples of the first"),
        ({"milliseconds": 0.0}, r"planner.milliseconds is 0.0; expected a number in \(0, inf\)"),
    ],
)
def test_check_names_the_key(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(STACK, **changes).check(3)
    STACK.check(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeat": [4, 1, 1]}, r"planner.repeat\[0\] is 4 environment steps; allowed: a divisor of the horizon, 6"),
        ({"replan": [7, 7, 7]}, r"planner.replan\[0\] is 7 steps; allowed: at most its horizon, 6"),
        ({"budget": 10}, r"planner.budget is 10: level 0 gets .* Raise the budget or planner.replan\[0\]"),
        ({"solver": {"_target_": "os.getcwd"}}, r"'os.getcwd' is not trusted"),
        ({"solver": {"_target_": "hiwm.planning.solvers.cem.CEM", "rounds": 3}}, r"rounds"),
    ],
)
def test_the_planner_names_what_does_not_fit(agent, changes, message):
    with pytest.raises(ValueError, match=message):
        stack_planner(agent, **changes)


def test_landmarks_without_a_graph_are_refused(exact):
    with pytest.raises(ValueError, match=r"planner.landmarks is 'direct' but the hierarchy has no graph"):
        HierarchicalPlanner(exact, replace(FLAT, landmarks="direct"), LOW, HIGH)


def test_flat_with_landmarks_searches_for_the_next_landmark(agent):
    flat = agent.with_planner(
        num_levels=1, landmarks="direct", proposal=["gaussian"], horizon=[6], replan=[3], repeat=[1]
    )
    goal = points(4, 2).numpy()
    flat.reset(goal)
    action = flat.act(points(4, 1).numpy())
    (part,) = flat.plan.steps
    assert part.actions.shape == (4, 6, 2)
    own = flat.hierarchy.encode({"state": torch.from_numpy(goal)})[0]
    on_graph = (part.target.unsqueeze(1) == agent.graphs[0].latents).all(2).any(1)
    assert (on_graph | (part.target == own).all(1)).all()
    assert isinstance(action, np.ndarray)


def test_steps_left_count_down_with_the_age_of_the_subgoal_and_along_the_plan(agent, monkeypatch):
    planner = stack_planner(agent, replan=[1, 6, 6], horizon=[3, 2, 2])
    asked = []
    above = planner.hierarchy.levels[1]
    delegate = above.delegate
    monkeypatch.setattr(above, "delegate", lambda s, t, left: (asked.append(left[0].item()), delegate(s, t, left))[1])
    start(planner, points(2))
    for expected in ([3, 2, 1], [2, 1, 1], [1, 1, 1]):
        asked.clear()
        planner.plan({"state": points(2, seed=1)})
        assert asked == expected  # level 1's subgoal is due 3 environment steps after it was made


def test_search_starts_at_the_inverse_models_actions(agent):
    follow = stack_planner(agent, replan=[5, 5, 10], repeat=[1, 1, 1], proposal=["inverse", "inverse", "gaussian"])
    search = stack_planner(
        agent,
        replan=[5, 5, 10],
        repeat=[1, 1, 1],
        proposal=["inverse+search", "inverse", "gaussian"],
        inverse_std=[1e-6] * 3,
    )
    for planner in (follow, search):
        start(planner, points(3))
        planner.plan({"state": points(3, seed=1)})
    torch.testing.assert_close(search.parts[0].actions, follow.parts[0].actions, rtol=0, atol=1e-4)


def test_a_goal_weight_draws_the_lower_levels_to_the_goal(agent):
    away = []
    for weight in (0.0, 1000.0):
        planner = stack_planner(agent, proposal=["inverse+search"] * 3, goal_weight=[weight, 0.0, 0.0])
        start(planner, points(8))
        part = planner.plan({"state": points(8, seed=1)}).steps[0]
        away.append(planner.goal.energy(0, part.predicted).amin(1).mean())
    assert away[1] < 0.9 * away[0]


def test_an_agent_near_its_target_goes_on_from_it(exact):
    where = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 0.3]])
    edges = torch.tensor([[0, 1, 3], [1, 2, 1]])
    graph = LandmarkGraph(Data(x=where, edge_index=edges, edge_attr=torch.ones(3)), edge_steps=10)
    config = replace(FLAT, landmarks="direct", hops=1)
    planner = HierarchicalPlanner(exact, config, LOW, HIGH, graphs=[graph])
    start(planner, torch.tensor([[2.0, 0.0]]))
    near = torch.tensor([[1.0, 0.25]])  # landmark 3 is the nearest, landmark 1 is near
    assert planner.ways.target(near, 0).latent.tolist() == [[1.0, 0.0]]
    planner.ways.target_node = torch.tensor([1])
    assert planner.ways.target(near, 0).latent.tolist() == [[2.0, 0.0]]


@pytest.mark.parametrize("name", sorted({path.stem for path in SOLVERS} - {"categorical"}))
def test_every_solver_plans_within_the_budget_and_arrives(exact, name):
    solver = load_config([f"solver@planner.solver={name}"]).planner.solver
    config = replace(FLAT, budget=400, solver=solver, warm_start=True, std=[1.0])
    position, goal = points(4, 1), points(4, 2)
    planner = start(HierarchicalPlanner(exact, config, LOW, HIGH), goal)
    plans, _ = walk(planner, position, 40)
    path = position + STEP * torch.stack([plan.action for plan in plans]).cumsum(0)
    arrived = (path - goal).norm(dim=2).amin(0) < 0.1
    assert arrived.all() or (name == "random" and arrived.sum() >= 3)
    for plan in plans[::5]:  # of which the found plan's own prediction is 20
        assert pytest.approx(plan.predictor_calls, rel=0.1) == 5 * 400


def test_passes_with_a_gradient_count_three_times(agent):
    """The backward pass through predictors and encoders takes about two forward passes."""
    solver = {"_target_": "hiwm.planning.solvers.gradient.Gradient", "iterations": 3}
    planner = stack_planner(agent, landmarks="none", proposal=["gaussian"] * 3, budget=400, solver=solver)
    plan = start(planner, points(2, 2)).plan({"state": points(2, 1)})
    rollouts = [3 * 3 * planner.levels[k].samples + 1 for k in range(3)]
    steps = [planner.config.horizon[k] * rollouts[k] for k in range(3)]
    assert plan.predictor_calls == sum(steps)
    # encoded: here and, where a level above asked, the latents of the search and of what it found
    assert plan.other_calls == 3 + sum(steps[k] for k in (0, 1))
    assert all(part.actions is not None and not part.actions.requires_grad for part in plan.steps)


def test_shifted_choices():
    space = SearchSpace(4, 2, 2, 2, LOW, HIGH)  # two choices, each held for two steps
    choices = torch.tensor([[[1.0, 10], [2, 20]], [[3, 30], [4, 40]]]).unsqueeze(0)  # (1, 2, 2, 2)
    mean = torch.tensor([[[0.0, 0], [8, 80]]])
    assert space.shifted(choices, 0, mean) is choices
    assert space.shifted(choices, 1, mean)[..., 0].tolist() == [[[1.5, 5], [3.5, 6]]]
    assert space.shifted(choices, 2, mean)[..., 1].tolist() == [[[20, 80], [40, 80]]]
    assert space.shifted(choices, 3, mean)[..., 0].tolist() == [[[1, 8], [2, 8]]]
    for steps in (4, 9):
        assert torch.equal(space.shifted(choices, steps, mean), mean.unsqueeze(1).expand(1, 2, 2, 2))


def proposals_of(planner):
    """The proposals that its searches are asked with from now on, and what they found."""
    (solver,) = {level.solver for level in planner.levels}
    asked, solve = [], solver.solve

    def spy(energy, proposal, *others):
        found = solve(energy, proposal, *others)
        asked.append((proposal, found))
        return found

    solver.solve = spy
    return asked


def test_a_warm_start_tries_the_plan_before_shifted(exact):
    cold = start(HierarchicalPlanner(exact, FLAT, LOW, HIGH), points(4, 2))
    asked = proposals_of(cold)
    walk(cold, points(4, 1), 6)
    assert all(proposal.guesses is None for proposal, _ in asked)

    config = replace(FLAT, warm_start=True, replan=[10], budget=50)
    planner = start(HierarchicalPlanner(exact, config, LOW, HIGH), points(4, 2))
    asked = proposals_of(planner)
    _, state = walk(planner, points(4, 1), 10)
    planner.keep(torch.tensor([1, 3]))
    walk(planner, state[[1, 3]], 1)
    (first, found), (second, _) = asked
    assert first.guesses is None
    # choices are held for five of the ten steps; the end is the proposal's mean, zero
    expected = torch.cat([found.actions[[1, 3], 2:], torch.zeros(2, 2, 2)], 1)
    torch.testing.assert_close(second.guesses, expected.unsqueeze(1))
    # new episodes know nothing of it
    start(planner, points(4, 3)).plan({"state": points(4, 1)})
    assert asked[-1][0].guesses is None


def test_each_level_shifts_by_whole_steps_of_its_own(agent):
    config = {"landmarks": "none", "proposal": ["gaussian"] * 3, "budget": 400, "warm_start": True}
    planner = start(stack_planner(agent, replan=[1, 3, 9], **config), points(2, 2))
    asked = proposals_of(planner)
    walk(planner, points(2, 1), 10)
    by_level = {k: [] for k in range(3)}
    for proposal, found in asked:
        by_level[{6: 0, 2: 1, 4: 2}[proposal.mean.shape[1]]].append((proposal, found))
    assert [len(by_level[k]) for k in range(3)] == [10, 4, 2]
    for k, steps in ((0, 1), (1, 1), (2, 1)):  # level 2: nine steps of the environment are one and a half of its own
        (_, before), (after, _), *_ = by_level[k]
        assert torch.equal(after.guesses[:, 0, :-steps], before.actions[:, steps:])
        assert torch.equal(after.guesses[:, 0, -steps:], after.mean[:, -steps:])


def test_a_time_limit_ends_a_search_after_its_first_round(exact):
    solver = {"_target_": "hiwm.planning.solvers.cem.CEM", "iterations": 10}
    for limit, rounds in ((None, 10), (1e-6, 1), (1e6, 10)):
        config = replace(FLAT, solver=solver, milliseconds=limit)
        planner = start(HierarchicalPlanner(exact, config, LOW, HIGH), points(4, 2))
        plan = planner.plan({"state": points(4, 1)})
        assert plan.predictor_calls == 20 * (rounds * planner.levels[0].samples + 1)


def one_level(name, k):
    """Proposals of a stack in which level k alone has another than the Gaussian."""
    return [name if level == k else "gaussian" for level in range(3)]


@pytest.mark.parametrize("k", range(3))
def test_the_bank_finds_better_plans_than_chance_within_its_bounds(agent, k):
    planner = start(stack_planner(agent, landmarks="none", budget=400, proposal=one_level("bank", k)), points(8, 2))
    plan = planner.plan({"state": points(8, 1)})
    part, bank, level = plan.steps[k], agent.heads.action_banks[k], agent.hierarchy.levels[k]
    low, high = (LOW, HIGH) if k == 0 else (bank.low, bank.high)
    rng = torch.Generator().manual_seed(0)
    drawn = low + (high - low) * torch.rand(part.actions.shape, generator=rng)
    here = agent.hierarchy.encode({"state": points(8, 1)})[k]
    predicted = level.rollout(here, drawn)
    if part.target_level > k:
        predicted = agent.hierarchy.levels[k + 1].encode({"latent": predicted})
    chance = squared_distance(predicted, part.target).amin(1)
    assert (part.energy <= chance).float().mean() > 0.8
    assert part.energy.mean() < 0.8 * chance.mean()
    if k == 0:
        assert (part.actions >= low - 1e-6).all()
        assert (part.actions <= high + 1e-6).all()
    else:  # wide enough for the sequence it starts from
        assert (part.actions >= bank.actions.amin((0, 1)).minimum(low) - 1e-6).all()
        assert (part.actions <= bank.actions.amax((0, 1)).maximum(high) + 1e-6).all()


@pytest.mark.parametrize("k", range(3))
def test_the_bank_alone_answers_with_a_real_sequence(agent, k):
    # one round: a second would begin at the mean of equal candidates, on some processors a rounding error away
    changes = {"landmarks": "none", "budget": 400, "inverse_std": [0.0] * 3, "proposal": one_level("bank", k)}
    changes["solver"] = {"_target_": "hiwm.planning.solvers.cem.CEM", "iterations": 1}
    planner = start(stack_planner(agent, **changes), points(5, 2))
    actions = planner.plan({"state": points(5, 1)}).steps[k].actions
    real = agent.heads.action_banks[k].actions[
        agent.heads.action_banks[k].steps >= actions.shape[1], : actions.shape[1]
    ]
    assert (actions.unsqueeze(1) == real).all((2, 3)).any(1).all()


def test_the_bank_takes_the_best_of_the_nearest(exact):
    """Six sequences of two actions; those that start farthest, beyond the four that are tried, would lead nearest."""
    first = torch.tensor([[-1.0, 0], [0, -1], [0.5, 0.2], [-1, -1], [1, 0], [1, 0]])
    bank = ActionBank(
        low=LOW,
        high=HIGH,
        start=torch.tensor([[0.0, 0], [0, 0.1], [0.1, 0], [0.1, 0.1], [5, 5], [6, 6]]),
        actions=first.unsqueeze(1).repeat(1, 2, 1),
        steps=torch.full((6,), 2),
    )  # fmt: skip
    config = replace(FLAT, proposal=["bank"], horizon=[2], replan=[1], repeat=[1], inverse_std=[0.0], budget=32)
    for inverse_std in (0.0, 0.3):
        planner = HierarchicalPlanner(
            exact, replace(config, inverse_std=[inverse_std]), LOW, HIGH, Heads(action_banks=[bank])
        )
        assert planner.levels[0].samples == 4
        plan = start(planner, torch.tensor([[1.0, 0.0]])).plan({"state": torch.zeros(1, 2)})
        assert plan.predictor_calls == 4 * 4 * 2 + 2
        (part,) = plan.steps
        energy = (1 - 2 * STEP * 0.5) ** 2 + (2 * STEP * 0.2) ** 2
        if inverse_std:
            assert part.energy.item() < energy
        else:
            assert torch.equal(part.actions[0], bank.actions[2])
            assert part.energy.item() == pytest.approx(energy)


MIXTURES = [name for name in PROPOSALS if Mixture.of(name).guesses]


def test_a_proposals_name_is_taken_apart():
    taken = {name: Mixture.of(name) for name in PROPOSALS}
    assert len(MIXTURES) == 5
    assert taken["inverse"] == Mixture("inverse")
    assert taken["inverse+search"] == Mixture("inverse+search")
    assert taken["inverse+search+bank"] == Mixture("inverse+search", ("bank",))
    assert taken["gaussian+inverse+bank"] == Mixture("gaussian", ("inverse", "bank"))
    assert {name for name in PROPOSALS if not taken[name].asks_inverse} == {*FREE, "prior"}
    assert FREE == ("gaussian", "bank", "gaussian+bank")
    assert {name for name in PROPOSALS if taken[name].asks_bank} == {name for name in PROPOSALS if "bank" in name}
    at_top = {name: taken[name].without_inverse() for name in PROPOSALS}
    assert at_top["inverse"] == at_top["inverse+search"] == at_top["gaussian+inverse"] == Mixture("gaussian")
    assert at_top["inverse+search+bank"] == Mixture("gaussian", ("bank",))
    assert at_top["bank+inverse"] == Mixture("bank")


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_also_tries_the_inverse_models_actions_and_real_ones(agent, name):
    """Level 1's search; its guesses stand in for random candidates, so that it costs what its first part costs."""
    changes = {"landmarks": "none", "budget": 400, "inverse_std": [0.3] * 3, "macro_bound": 0.1}
    mixture, calls = Mixture.of(name), []
    for proposal in (mixture.first, name):
        planner = start(stack_planner(agent, proposal=one_level(proposal, 1), **changes), points(5, 2))
        asked = proposals_of(planner)
        plan = planner.plan({"state": points(5, 1)})
        calls.append(plan.predictor_calls)
    proposed = next(proposal for proposal, _ in asked if proposal.mean.shape[1] == 2)
    following = "inverse" in mixture.guesses
    assert calls[1] == calls[0] + 2 * following
    here, expected = agent.hierarchy.encode({"state": points(5, 1)})[1], []
    if following:
        latent, actions = here, []
        for left in (2.0, 1.0):
            action = agent.hierarchy.levels[2].delegate(latent, plan.steps[2].subgoal, torch.full((5,), left))
            actions.append(planner.levels[1].space.clamp(action))
            latent = agent.hierarchy.levels[1].predict(latent, actions[-1])
        expected.append(torch.stack(actions, 1).unsqueeze(1))
    if "bank" in mixture.guesses:
        expected.append(agent.heads.action_banks[1].nearest(here, -(-planner.levels[1].samples // 2), 2))
    expected = torch.cat(expected, 1)
    torch.testing.assert_close(proposed.guesses, expected)
    # within bounds that hold them, and no wider than that
    assert (proposed.low <= expected.amin(1)).all()
    assert (proposed.high >= expected.amax(1)).all()
    if mixture.first == "gaussian":
        assert planner.levels[1].space.high == pytest.approx(0.1)
        assert torch.equal(proposed.low, torch.minimum(planner.levels[1].space.low, expected.amin(1)))
        assert torch.equal(proposed.high, torch.maximum(planner.levels[1].space.high, expected.amax(1)))


def test_guesses_follow_the_plan_before(agent):
    changes = {"landmarks": "none", "budget": 400, "warm_start": True, "replan": [1, 1, 1]}
    planner = start(stack_planner(agent, proposal=one_level("gaussian+inverse", 1), **changes), points(2, 2))
    asked = proposals_of(planner)
    walk(planner, points(2, 1), 2)
    first, second = (proposal for proposal, _ in asked if proposal.mean.shape[1] == 2)
    assert first.guesses.shape[1] == 1
    assert second.guesses.shape[1] == 2
    assert torch.equal(second.guesses[:, 0], next(found for p, found in asked if p is first).actions)


def test_the_banks_guess_is_taken_where_it_is_best(exact):
    """Nothing else that is tried moves at all."""
    actions = torch.tensor([[-1.0, 0], [1, 0], [0, 1], [0.5, 0]]).unsqueeze(1).repeat(1, 2, 1)
    bank = ActionBank(low=LOW, high=HIGH, start=torch.zeros(4, 2), actions=actions, steps=torch.full((4,), 2))
    config = replace(FLAT, proposal=["gaussian+bank"], horizon=[2], replan=[1], repeat=[1], std=[0.0], budget=48)
    planner = HierarchicalPlanner(exact, config, LOW, HIGH, Heads(action_banks=[bank]))
    assert planner.levels[0].samples == 8
    plan = start(planner, torch.tensor([[1.0, 0.0]])).plan({"state": torch.zeros(1, 2)})
    assert torch.equal(plan.steps[0].actions[0], actions[1])
    assert plan.predictor_calls == 3 * 8 * 2 + 2


@pytest.mark.parametrize("name", ["gaussian+bank", "inverse+search+bank", "gaussian+inverse+bank", "bank+inverse"])
def test_a_mixture_needs_what_its_parts_need(agent, name):
    bare = Agent(agent.hierarchy, Heads(), agent.graphs, agent.config, agent.world)
    message = rf"planner.proposal\[1\] is '{name.replace('+', '[+]')}'; expected .* because the hierarchy has no action bank of level 1"
    with pytest.raises(ValueError, match=message):
        bare.with_planner(proposal=one_level(name, 1))
    bare.with_planner(proposal=one_level("gaussian+inverse", 1))
    with pytest.raises(ValueError, match=r"planner.horizon\[2\] is 14; expected at most 13"):
        stack_planner(agent, landmarks="none", budget=2000, horizon=[6, 2, 14], proposal=one_level(name, 2))
    # the top level asks no inverse model
    planner = start(stack_planner(agent, landmarks="none", budget=800, proposal=one_level(name, 2)), points(2))
    assert planner.plan({"state": points(2, 1)}).steps[2].actions.shape == (2, 4, 4)
    if Mixture.of(name).asks_inverse:
        flat = HierarchicalPlanner(
            agent.hierarchy.truncate(1),
            replace(FLAT, proposal=[name]),
            LOW,
            HIGH,
            Heads(action_banks=agent.heads.action_banks),
        )
        with pytest.raises(ValueError, match=r"allowed: gaussian, bank, gaussian\+bank, for"):
            begin(flat, PartGoal(torch.zeros(1, 2), [Itself()]))


def test_held_actions_are_the_means_of_real_ones(exact):
    actions = torch.rand(7, 20, 2, generator=torch.Generator().manual_seed(0))
    bank = ActionBank(low=LOW, high=HIGH, start=torch.rand(7, 2), actions=actions, steps=torch.full((7,), 20))
    config = replace(FLAT, proposal=["bank"], inverse_std=[0.0])
    planner = start(HierarchicalPlanner(exact, config, LOW, HIGH, Heads(action_banks=[bank])), points(3, 2))
    (part,) = planner.plan({"state": points(3, 1)}).steps
    held = actions.unflatten(1, (4, 5)).mean(2).repeat_interleave(5, 1)
    assert torch.isclose(part.actions.unsqueeze(1), held).all((2, 3)).any(1).all()


def test_the_bank_costs_what_the_gaussian_does(agent):
    changes = {"landmarks": "none", "budget": 800}
    calls = []
    for proposal in ("gaussian", "bank"):
        planner = start(stack_planner(agent, proposal=[proposal] * 3, **changes), points(3, 2))
        calls.append(sum(plan.predictor_calls for plan in walk(planner, points(3, 1), 6)[0]))
    assert calls[1] == pytest.approx(calls[0], rel=0.05)


def test_the_proposal_bank_without_a_bank_is_refused(agent):
    agent = Agent(agent.hierarchy, Heads(), agent.graphs, agent.config, agent.world)  # no proposal needs any
    message = (
        r"planner.proposal\[1\] is 'bank'; expected gaussian, .* because the hierarchy has no action bank of level 1"
    )
    with pytest.raises(ValueError, match=message):
        agent.with_planner(proposal=one_level("bank", 1))
    # a top level that hands landmarks down proposes nothing
    agent.with_planner(proposal=one_level("bank", 2), landmarks="direct")


def test_a_horizon_beyond_the_bank_is_refused(agent):
    longest = agent.heads.action_banks[2].longest
    assert longest == 13  # 80 steps in periods of 6
    changes = {"landmarks": "none", "budget": 2000, "proposal": one_level("bank", 2)}
    stack_planner(agent, horizon=[6, 2, longest], **changes)
    with pytest.raises(ValueError, match=r"planner.horizon\[2\] is 14; expected at most 13, .* action_bank.length"):
        stack_planner(agent, horizon=[6, 2, longest + 1], **changes)


def test_a_single_level_of_chunks_proposes_real_ones(agent):
    """Level 0 of stride 2: its actions are chunks of two primitive ones."""
    spec = replace(agent.hierarchy.specs[0], stride=2)
    level = spec.build()
    hierarchy = Hierarchy([level], [spec]).eval().requires_grad_(False)
    chunks = torch.rand(9, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    bank = ActionBank(
        low=chunks.amin((0, 1)),
        high=chunks.amax((0, 1)),
        start=torch.rand(9, level.encoder.dim),
        actions=chunks,
        steps=torch.full((9,), 4),
    )
    config = replace(FLAT, horizon=[4], replan=[4], repeat=[1], inverse_std=[0.0])
    config = replace(config, proposal=["bank"])
    planner = HierarchicalPlanner(hierarchy, config, LOW, HIGH, Heads(action_banks=[bank]))
    plan = start(planner, points(3, 2)).plan({"state": points(3, 1)})
    actions = plan.steps[0].actions
    assert actions.shape == (3, 4, 4)
    assert torch.equal(plan.action, actions[:, 0, :2])
    assert (actions.unsqueeze(1) == chunks).all((2, 3)).any(1).all()
    with pytest.raises(ValueError, match=r"planner.proposal\[0\] is 'inverse'; allowed: gaussian, bank"):
        HierarchicalPlanner(hierarchy, replace(config, proposal=["inverse"]), LOW, HIGH)


class Itself(torch.nn.Module):
    """A readout of latents that are the position."""

    std = torch.ones(2)

    def forward(self, latent):
        return latent


def begin(planner, goal):
    planner.start(goal, torch.Generator().manual_seed(0))
    return planner


def path_of(planner, position, steps):
    plans, _ = walk(planner, position, steps)
    return plans, position + STEP * torch.stack([plan.action for plan in plans]).cumsum(0)  # (steps, B, 2)


def test_a_goal_on_a_part_of_the_state_leaves_the_rest_alone(exact):
    position = torch.tensor([[0.1, 0.2], [0.9, 0.8]])
    goal = PartGoal(torch.tensor([[0.8, torch.nan], [0.2, torch.nan]]), [Itself()])
    plans, path = path_of(begin(HierarchicalPlanner(exact, FLAT, LOW, HIGH), goal), position, 60)
    part = plans[0].steps[0]
    assert part.target is None
    torch.testing.assert_close(part.energy, (part.predicted[..., 0] - goal.part[:, :1]).square().amin(1))
    assert (path[..., 0] - goal.part[:, 0]).abs().amin(0).max() < 0.05


def test_waypoints_are_visited_in_order(exact):
    first, second = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.2, 0.8]])
    goal = InOrder([ObservationGoal([point]) for point in (first, second)], tolerance=0.05**2)
    planner = begin(HierarchicalPlanner(exact, replace(FLAT, replan=[1], budget=1000), LOW, HIGH), goal)
    _, path = path_of(planner, torch.tensor([[0.2, 0.2]]), 60)
    reached = [int((path - point).norm(dim=-1).argmin()) for point in (first, second)]
    assert reached[0] < reached[1]
    assert all((path - point).norm(dim=-1).min() < 0.06 for point in (first, second))


def test_a_graph_leads_to_where_the_part_is_right(exact):
    where = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    edges = torch.tensor([[0, 1, 1], [1, 2, 3]])
    graph = LandmarkGraph(Data(x=where, edge_index=edges, edge_attr=torch.ones(3)), edge_steps=10)
    config = replace(FLAT, landmarks="direct", hops=1)
    planner = HierarchicalPlanner(exact, config, LOW, HIGH, graphs=[graph])
    begin(planner, PartGoal(torch.tensor([[1.9, torch.nan], [torch.nan, 0.9]]), [Itself()]))
    assert planner.ways.goal_node.tolist() == [2, 3]
    here = torch.tensor([[0.0, 0.0], [1.0, 0.9]])
    aim = planner.ways.target(here, 0)
    assert aim.latent.tolist() == [[1, 0], [1, 1]]
    # on the way to the landmark; at the last one, to the goal itself, whatever x is
    energy = aim.energy(torch.tensor([[1.0, 1.0], [7.0, 1.0]])[:, None, None])
    torch.testing.assert_close(energy.squeeze(), torch.tensor([1.0, 0.01]))


def test_a_goal_that_worlds_apart_meet_is_met_in_the_episodes_own(exact):
    where = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 5.0], [1.0, 5.0], [2.1, 5.0]])
    edges = torch.tensor([[0, 1, 3, 4], [1, 2, 4, 5]])  # two rows without a way between them
    graph = LandmarkGraph(Data(x=where, edge_index=edges, edge_attr=torch.ones(4)), edge_steps=10)
    planner = HierarchicalPlanner(exact, replace(FLAT, landmarks="direct", hops=1), LOW, HIGH, graphs=[graph])
    ways = begin(planner, PartGoal(torch.tensor([[2.1, torch.nan]] * 3), [Itself()])).ways
    aim = ways.target(torch.tensor([[0.0, 0.1], [0.0, 4.9], [0.9, 0.2]]), 0)
    assert aim.latent.tolist() == [[1, 0], [1, 5], [2, 0]]
    planner.keep(torch.tensor([1, 2]))
    assert ways.target(torch.tensor([[1.0, 4.9], [1.0, 0.2]]), 10).latent.tolist() == [where[5].tolist(), [2, 0]]
    ways.update_goal(planner.goal, torch.tensor([True, True]))
    assert ways.goal_node.tolist() == [5, 2]
    # a whole observation is in one world, wherever the episode seems to be
    begin(planner, ObservationGoal([torch.tensor([[2.0, 4.9]])])).ways.target(torch.tensor([[0.0, 0.1]]), 0)
    assert ways.goal_node.tolist() == [5]


def test_an_inverse_model_cannot_be_asked_for_a_part(agent):
    planner = stack_planner(agent, landmarks="none").hierarchy.truncate(1)
    flat = HierarchicalPlanner(planner, replace(FLAT, proposal=["inverse"]), LOW, HIGH)
    with pytest.raises(ValueError, match=r"planner.proposal\[0\] is 'inverse'; allowed: gaussian, bank"):
        begin(flat, PartGoal(torch.zeros(1, 2), [Itself()]))


def test_a_forbidden_region_is_gone_around(exact):
    """From one side of a box to the other, with a search that sees the far side and with a grid of landmarks."""
    position, target = (
        torch.tensor([[0.2, 0.5]]).repeat(4, 1),
        ObservationGoal([torch.tensor([[0.8, 0.5]]).repeat(4, 1)]),
    )
    box = Region(torch.tensor([[0.4, 0.3]]).repeat(4, 1), torch.tensor([[0.6, 0.7]]).repeat(4, 1), [Itself()])
    axis = torch.linspace(0, 1, 6)
    where = torch.cartesian_prod(axis, axis)
    apart = torch.cdist(where, where)
    edges = ((apart > 0) & (apart < 0.21)).nonzero().T
    graph = LandmarkGraph(Data(x=where, edge_index=edges, edge_attr=torch.ones(edges.shape[1])), edge_steps=4)
    planners = {
        "search": HierarchicalPlanner(exact, replace(FLAT, horizon=[40], replan=[2], budget=4000), LOW, HIGH),
        "graph": HierarchicalPlanner(
            exact, replace(FLAT, landmarks="direct", replan=[2], budget=1000), LOW, HIGH, graphs=[graph]
        ),
    }
    inside = ((where > 0.35) & (where < 0.65)).all(1)  # of the landmarks, as labels
    zones = {
        "box": KeepOut(target, box, margin=0.05),
        "predicate": KeepOut(target, Where(lambda part: 0.21 - (part["state"] - 0.5).abs().amax(-1), {"state": [2]}, [Itself()])),
        "labels": KeepOut(target, LabelledStates(where, inside, [Itself()]), margin=0.05),
    }  # fmt: skip
    for name, planner in planners.items():
        for goal, enters in ((target, True), *((zone, False) for zone in zones.values())):
            _, path = path_of(begin(planner, goal), position, 80)
            assert (path - target.latent(0)).norm(dim=-1).amin(0).max() < 0.1, name
            assert (box.depth(0, path.transpose(0, 1)) > 0).any().item() == enters, name


def test_a_closed_door_is_learned_and_remembered(exact):
    """A wall with two doors; the near one is closed today, which nothing seen tells."""
    axis = torch.linspace(0, 1, 11)
    where = torch.cartesian_prod(axis, axis)

    def through_wall(a, b, doors):
        crosses = (a[..., 0] - 0.55) * (b[..., 0] - 0.55) < 0
        height = (a[..., 1] + b[..., 1]) / 2
        return crosses & ~torch.stack([(height - door).abs() < 0.11 for door in doors]).any(0)

    apart = torch.cdist(where, where)
    pairs = ((apart > 0) & (apart < 0.15)).nonzero()
    pairs = pairs[~through_wall(where[pairs[:, 0]], where[pairs[:, 1]], (0.5, 0.9))].T
    graph = LandmarkGraph(Data(x=where, edge_index=pairs, edge_attr=torch.ones(pairs.shape[1])), edge_steps=2)
    goal = ObservationGoal([torch.tensor([[0.9, 0.3]])])

    def episode(planner):
        begin(planner, goal)
        state = torch.tensor([[0.2, 0.3]])
        for step in range(400):
            moved = (state + STEP * planner.plan({"state": state}).action).clamp(0, 1)
            state = torch.where(through_wall(state, moved, (0.9,))[:, None], state, moved)
            if (state - goal.latent(0)).norm() < 0.1:
                return step
        return None

    config = replace(FLAT, landmarks="direct", hops=1, horizon=[6], repeat=[2], replan=[2], feedback=0.0)
    assert (
        episode(HierarchicalPlanner(exact, config, LOW, HIGH, graphs=[graph])) is None
    )  # stands before the closed door for ever
    planner = HierarchicalPlanner(exact, replace(config, feedback=20.0), LOW, HIGH, graphs=[graph])
    first, second = episode(planner), episode(planner)
    assert first is not None
    assert second is not None
    assert second < 0.8 * first
    assert torch.equal(graph.weights, torch.ones(pairs.shape[1]))  # the graph of the data stays as it was
