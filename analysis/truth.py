"""Agents with one part of one level replaced by the truth, which the environment's oracle tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiwm.agent import Agent
from hiwm.analysis.questions.study import Study
from hiwm.envs.oracle import Observations, Oracle
from hiwm.levels.landmarks import nearest
from hiwm.observation import Observation
from hiwm.planning.costs import Evaluator
from hiwm.planning.goals import Goal
from hiwm.planning.model import LevelModel
from hiwm.planning.rollout import Rollout
from hiwm.planning.strategies.strategy import Decision, Problem, Strategy
from hiwm.planning.targets import Target

STATES = 10_000  # real states that latents are decoded to


class Truth:
    """What is true in the running episodes of an agent.

    Args:
        study: of the agent; its environment has an oracle.

    Attributes:
        now: observations of the B running episodes.
        goal: goal observations of them.
    """

    def __init__(self, study: Study) -> None:
        assert study.oracle is not None, "checked by the command"
        self.oracle: Oracle = study.oracle
        self.encode = study.encode
        parts = study.held_out, study.training
        rows = np.concatenate([part.rows for part in parts])
        some = np.linspace(0, len(rows) - 1, min(STATES, len(rows))).astype(int)
        self.known = [torch.cat([part.latents[k] for part in parts])[some] for k in range(study.num_levels)]
        self.states = study.observations(rows[some])
        self.now: Observations = np.empty(0)
        self.goal: Observations = np.empty(0)

    def nearest_states(self, level: int, latents: Tensor) -> Observations:
        """Observations of the real states with the nearest latents, (N, D) -> N observations."""
        return taken(self.states, nearest(latents.cpu(), self.known[level])[1].numpy())

    def steps(self, level: int, latents: Tensor, goal: Observations) -> Tensor:
        """Environment steps from the states of latents (B, S, H, D) to the goals of B episodes, (B, S, H)."""
        episode = np.repeat(np.arange(len(latents)), latents.shape[1] * latents.shape[2])
        found = self.nearest_states(level, latents.flatten(0, 2))
        there = self.oracle.along(
            taken(self.now, episode), found, np.inf
        )  # doors and the like are those of the episode
        steps = self.oracle.shortest_steps(there, taken(goal, episode))
        return torch.as_tensor(steps, dtype=latents.dtype, device=latents.device).reshape(latents.shape[:3])

    def latent(self, level: int, observations: Observations, like: Tensor) -> Tensor:
        """Latents of N observations at a level, (N, D)."""
        return self.encode(observations)[level].to(like.device)


def without_images(observations: Observations) -> Observations:
    """Without the colour images in dicts, which an oracle does not read; it may read a map, (N, H, W)."""
    if not isinstance(observations, Mapping):
        return observations
    return {name: x for name, x in observations.items() if not name.startswith("_") and np.ndim(x) <= 3}


def taken(observations: Observations, rows: np.ndarray) -> Observations:
    """Some of N observations, or all of them several times."""
    if isinstance(observations, Mapping):
        return {name: np.asarray(x)[rows] for name, x in observations.items()}
    return np.asarray(observations)[rows]


class OracleAgent(Agent):
    """An agent whose strategies may look at the truth.

    Args:
        agent: the trained agent.
        truth: kept up to date with the running episodes.
    """

    def __init__(self, agent: Agent, truth: Truth) -> None:
        parts = agent.hierarchy, agent.heads, agent.graphs, agent.config, agent.spec
        super().__init__(*parts, None, agent.seed, agent.allow)
        self.truth = truth

    def reset(self, goal: Any, episodes: Sequence[int] | None = None) -> None:
        if isinstance(goal, Goal | str | list):
            raise ValueError(
                f"the goal is a {type(goal).__name__}; expected goal observations, whose true state is known"
            )
        self.truth.goal = without_images(goal)
        super().reset(goal, episodes)

    def act(self, observation: Observation) -> np.ndarray:
        self.truth.now = without_images(observation)
        return super().act(observation)

    def select(self, rows: np.ndarray) -> None:
        self.truth.goal = taken(self.truth.goal, np.asarray(rows))
        super().select(rows)


class Replaced(Strategy):
    """A trained strategy with a part of its problem replaced.

    Args:
        strategy: the trained one.
        truth: of the running episodes.
    """

    def __init__(self, strategy: Strategy, truth: Truth) -> None:
        self.strategy, self.truth = strategy, truth
        self.searches, self.needs_latent = strategy.searches, strategy.needs_latent

    def start(self) -> None:
        self.strategy.start()

    def select(self, rows: Tensor) -> None:
        self.strategy.select(rows)

    def plan(self, problem: Problem) -> Decision:
        return self.strategy.plan(self.replaced(problem))

    def replaced(self, problem: Problem) -> Problem:
        """The problem with its true part."""
        raise NotImplementedError


class TrueSubgoals(Replaced):
    """Hands down the true state that lies one step of the level ahead on the shortest path to the goal."""

    def plan(self, problem: Problem) -> Decision:
        model, truth = problem.model, self.truth
        ahead = truth.oracle.along(truth.now, truth.goal, model.period)
        return Decision(truth.latent(model.k, ahead, problem.latent), model.period)


class TrueDistance(Replaced):
    """Searches with the true number of steps from the predicted state to its target."""

    def replaced(self, problem: Problem) -> Problem:
        target, k, truth = problem.target, problem.model.k, self.truth
        goal = truth.goal
        if target.latent is not None and (target.level != k or target.path is not None):  # a subgoal, or a landmark
            goal = truth.nearest_states(target.level, target.latent)

        def cost(rollout: Rollout) -> Tensor:
            learned = target.cost(rollout)  # decides among predictions with the same nearest state
            return truth.steps(k, rollout.latents, goal) + learned / (1 + learned)

        new: Target = replace(target, cost=cost)
        old = problem.evaluate
        evaluate = Evaluator(new, old.costs, old.penalty, old.constraint, old.committed, old.log)
        return replace(problem, target=new, evaluate=evaluate)


class TrueDynamics(Replaced):
    """Searches with predictions that are corrected to the truth."""

    def replaced(self, problem: Problem) -> Problem:
        return replace(problem, model=TrueModel(problem.model, self.truth))


class TrueModel(LevelModel):
    """The model of a level, whose rollouts are true.

    Level 0 simulates its actions. An upper level has no simulator, because a macro-action stands for many sequences of actions; the
    end of each predicted step becomes the state that the agent really can reach in that time on its way to the predicted state, which
    is the real state with the nearest latent. So no prediction passes through a wall, goes too far, or leaves the data.

    Args:
        model: the trained one.
        truth: of the running episodes.
    """

    def __init__(self, model: LevelModel, truth: Truth) -> None:
        self.__dict__.update(model.__dict__)
        self.truth = truth

    def rollout(
        self,
        latent: Tensor,
        memory: Any,
        actions: Tensor,
        decode: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Rollout:
        size, samples, horizon = actions.shape[:3]
        at = taken(self.truth.now, np.repeat(np.arange(size), samples))
        now, taken_actions, latents = latent.repeat_interleave(samples, 0), [], []
        none = actions.new_zeros(size * samples, 0, self.actions.dim)
        for h in range(horizon):
            state = self.predictor.remember(now.unsqueeze(1), none)
            predicted = super().rollout(now, state, actions[:, :, h].reshape(size * samples, 1, 1, -1), decode)
            end = self._true_end(at, predicted)
            now, at = self.truth.latent(self.k, end, latent), without_images(end)
            taken_actions.append(predicted.actions[:, 0, 0])
            latents.append(now)
        played, ends = (torch.stack(x, 1).unflatten(0, (size, samples)) for x in (taken_actions, latents))
        return Rollout(latent, played, ends, None if predicted.variance is None else torch.zeros_like(ends))

    def _true_end(self, at: Observations, predicted: Rollout) -> Observations:
        oracle = self.truth.oracle
        if self.k:
            wanted = self.truth.nearest_states(self.k, predicted.latents[:, 0, 0])
            return oracle.along(at, wanted, self.period)
        primitive = self.executable(predicted.actions[:, 0])[:, 0].unflatten(-1, (self.stride, -1))
        return oracle.simulate(at, primitive.cpu().numpy())

    def follow_inverse(self, latent: Tensor, memory: Any, target: Target, clamp: Callable[[Tensor], Tensor]) -> Rollout:
        chosen = super().follow_inverse(latent, memory, target, clamp)
        return self.rollout(latent, memory, chosen.actions)

    def extend(self, rollout: Rollout, actions: Tensor) -> Rollout:
        raise ValueError(
            f"planner.level{self.k}.strategy extends plans step by step; expected one that predicts whole plans, because only these can "
            "be corrected to the truth"
        )
