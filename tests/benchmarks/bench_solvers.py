"""Our CEM against that of stable-worldmodel: same predictor, candidates, rounds and elites, for 1 and 50 environments."""

import io
import time
from contextlib import nullcontext, redirect_stdout
from functools import partial
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

from hiwm.levels.precision import half_precision
from hiwm.levels.predictors.mlp import ResidualMLPPredictor
from hiwm.open_loop import Unrolled, in_blocks, mapped
from hiwm.planning.goals import distance_to
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.solvers.cem import CEM
from hiwm.planning.solvers.solver import Proposal, Scores

SAMPLES, ITERATIONS, ELITES, HORIZON, LATENT, ACTION = 300, 3, 30, 10, 8, 2
TIMES = 15


def least_distance(predicted, goal):
    """From predicted latents (N, H, D) to goals (N, D), (N,)."""
    return distance_to(goal, predicted).amin(-1)


def medians(functions):
    """Seconds of one call of each, the median of `TIMES` in turn, warm."""
    spent = {name: [] for name in functions}
    for number in range(TIMES + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if number:
                spent[name].append(time.perf_counter() - began)
    return {name: float(np.median(values)) for name, values in spent.items()}


class World(torch.nn.Module):
    """The predictor with the interface that the solvers of stable-worldmodel expect."""

    def __init__(self, predictor):
        super().__init__()
        self.predictor = predictor

    def get_cost(self, info, candidates):
        latent, goal = info["latent"].flatten(0, 1), info["goal"].flatten(0, 1)
        predicted = self.predictor.rollout(latent, candidates.flatten(0, 1))
        return least_distance(predicted, goal).unflatten(0, candidates.shape[:2])


def searches(batch, device):
    """Name -> a search for so many environments, which returns the costs that it found."""
    swm = pytest.importorskip(
        "stable_worldmodel.solver.cem", reason="no stable_worldmodel here: pip install stable-worldmodel==0.1.1"
    )
    torch.manual_seed(0)
    predictor = ResidualMLPPredictor(dim_latent=LATENT, dim_action=ACTION, width=128, depth=3).to(device)
    predictor.eval().requires_grad_(False)
    latent, goal = torch.randn(2, batch, LATENT).to(device)

    zero = torch.zeros(batch, HORIZON, ACTION, device=device)
    bound = torch.tensor(1e9, device=device)  # theirs has no bounds
    proposal = Proposal(zero, torch.ones_like(zero), -bound, bound)
    cem = CEM(iterations=ITERATIONS, elite_share=ELITES / SAMPLES, min_std=0.0)

    def objective(candidates):
        state = mapped(predictor.start(latent), lambda rows: rows.repeat_interleave(SAMPLES, 0))
        actions = candidates.flatten(0, 1)
        _, latents, _ = in_blocks(
            lambda _, s, a: Unrolled(a, predictor.rollout_from(s, a), None), state, state, actions
        )
        return Scores(least_distance(latents, goal.repeat_interleave(SAMPLES, 0)).unflatten(0, (-1, SAMPLES)))

    @torch.no_grad()
    def ours(precision):
        with precision():
            found = cem.solve(objective, proposal, SAMPLES, EpisodeNoise(range(batch), device))
        return least_distance(predictor.rollout(latent, found.actions), goal).cpu()  # waits for a GPU

    def theirs(together):
        solver = swm.CEMSolver(
            World(predictor), batch_size=together, num_samples=SAMPLES, n_steps=ITERATIONS, topk=ELITES, device=device
        )
        space = gymnasium.spaces.Box(-1, 1, (batch, ACTION))
        solver.configure(action_space=space, n_envs=batch, config=SimpleNamespace(horizon=HORIZON, action_block=1))

        def solve():
            with redirect_stdout(io.StringIO()):  # it prints its time
                actions = solver.solve({"latent": latent, "goal": goal})["actions"].to(device)
            return least_distance(predictor.rollout(latent, actions), goal).cpu()

        return solve

    return {
        "ours": partial(ours, nullcontext),
        "ours, bfloat16": partial(ours, partial(half_precision, torch.device(device))),
    } | {f"theirs, {size} at once": theirs(size) for size in sorted({1, batch})}


@pytest.mark.parametrize("batch", [1, 50])
def test_milliseconds_a_search(batch):
    found = searches(batch, "cpu")
    spent = medians(found)
    print(
        f"\n{batch} environments, {SAMPLES} candidates, {ITERATIONS} rounds, horizon {HORIZON}: milliseconds a search"
    )
    for name, search in found.items():
        ratio = spent[name] / spent["ours"]
        print(f"  {name:<22}{1000 * spent[name]:9.1f}  x{ratio:.2f} of ours  mean cost {search().mean().item():.3f}")
