"""One level's networks, as planning uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hiwm.heads.action_bank import ActionBank, mean_step
from hiwm.heads.heads import Heads, head_of
from hiwm.hierarchy import Hierarchy
from hiwm.levels.action_encoders.raw import RawActionEncoder
from hiwm.levels.distance import distance
from hiwm.levels.level import Level
from hiwm.open_loop import Unrolled, in_blocks, mapped, unroll
from hiwm.planning.action_space import ActionSpace
from hiwm.planning.counter import CountedPredictor, ForwardCounter
from hiwm.planning.history import History
from hiwm.planning.rollout import Rollout
from hiwm.planning.targets import Target

MACRO_BOUND = 2.5  # standard deviations of macro-actions, which are trained to be N(0, I)


class LevelModel:
    """The networks of one level. A plan's own data are in `Problem`. Forward passes are counted.

    Args:
        hierarchy: all levels that plan.
        k: number of the level.
        heads: what was fitted to the levels.
        horizon: steps of the level that a plan looks ahead.
        bounds: lowest and highest primitive action, (A,) each.
        discrete: whether primitive actions are one-hot vectors.
        counter: counts their forward passes.

    Attributes:
        period: environment steps in one step of the level.
        actions: what a plan of the level chooses.
        passes: network evaluations of one prediction.
        p: power of the `distance` that the level plans by.
        step_cost: mean distance, to that power, over one step from the real latents by the real actions of the bank. Without a bank, it is
            taken from `Predictor.scale`, which is measured before training and too small for an encoder that learns.
        step_length: Euclidean length of such a step, the root mean square.
        bank: real macro-actions of the level; None without.
        flow: action prior, (latent, noise) -> macro-action; None without.
        value: (latent, part of a state) -> steps to go; None without.
        calibration: of the ensemble's disagreement; None without.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        k: int,
        heads: Heads,
        horizon: int,
        bounds: tuple[Tensor, Tensor],
        discrete: bool,
        counter: ForwardCounter,
    ) -> None:
        level = hierarchy.levels[k]
        self.k, self.horizon, self.period = k, horizon, hierarchy.periods[k]
        self.stride = level.stride
        self.passes = level.predictor.passes
        self.predictor = CountedPredictor(level.predictor, counter)
        self.encode = counter.wrap(level.encode)
        #: a latent of the level below, (..., D_below) -> (..., D)
        self.encode_latent = counter.wrap(lambda below: level.encode({"latent": below}))
        #: inverse models by the level of their target: this one, or the one above
        self.inverses = {j: counter.wrap(hierarchy.levels[j].infer_action) for j in (k, k + 1) if j < len(hierarchy)}
        self.bank, self.calibration = head_of(heads.action_banks, k), head_of(heads.calibrations, k)
        self.p = level.p
        self.step_length = _mean_step(level, self.bank, 2).sqrt().item()
        self.step_cost = self.step_length**2 if self.p == 2 else _mean_step(level, self.bank, self.p).item()
        prior, value = head_of(heads.action_priors, k), head_of(heads.values, k)
        self.flow = None if prior is None else counter.wrap(prior, prior.passes)
        self.value = None if value is None else counter.wrap(value)
        self.action_encoder, self.for_actions = level.action_encoder, level.encoder.for_actions
        #: lowest and highest primitive action, in the units of the environment
        self.low, self.high = bounds
        if k:
            high = torch.tensor(MACRO_BOUND, device=bounds[0].device)
            low = -high
        else:
            low, high = (level.action_encoder.standardize(bound) for bound in bounds)
        free = len(bounds[0]) if k == 0 else level.action_encoder.dim
        self.actions = ActionSpace(level.action_encoder.dim, free, low, high, discrete and k == 0)

    @property
    def looks_ahead(self) -> int:
        """Environment steps that a plan looks ahead."""
        return self.horizon * self.period

    def steps(self, environment_steps: int) -> int:
        """Steps of the level in so many environment steps, rounded up."""
        return -(-environment_steps // self.period)

    def memory(self, history: History, latent: Tensor) -> Any:
        """The predictor's recurrent state for episodes at latents (B, D) with this history."""
        # Searches reuse this state. A tensor made in inference mode could not take part in a gradient.
        with torch.inference_mode(False), torch.no_grad():
            return self.predictor.remember(*history.context(self.k, latent))

    def rollout(
        self,
        latent: Tensor,
        memory: Any,
        actions: Tensor,
        decode: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Rollout:
        """Predict where candidates lead.

        Args:
            latent: where the episodes are, (B, D).
            memory: the predictor's recurrent state there, see `memory`.
            actions: S candidates per episode, (B, S, H, A).
            decode: (latent (N, D), candidate's action (N, A)) -> the action taken there, (N, A); None: the candidate's.
        """
        samples, horizon = actions.shape[1:3]
        self._check_length(horizon)

        def run(latent: Tensor, state: Any, chosen: Tensor) -> Unrolled:
            def choose(h: int, latent: Tensor) -> Tensor:
                return chosen[:, h] if decode is None else decode(latent, chosen[:, h])

            return unroll(self.predictor, latent, state, choose, horizon)

        repeated = latent.repeat_interleave(samples, 0)
        state = mapped(memory, lambda rows: rows.repeat_interleave(samples, 0))
        found = in_blocks(run, repeated, state, actions.flatten(0, 1))
        taken, latents, *variance = (x.unflatten(0, (-1, samples)) for x in found if x is not None)
        return Rollout(latent, taken, latents, *variance)

    def extend(self, rollout: Rollout, actions: Tensor) -> Rollout:
        """Candidates one step longer; see `Problem.extend`."""
        self._check_length(rollout.actions.shape[2] + 1)
        times = actions.shape[1] // rollout.actions.shape[1]
        state = mapped(rollout.state, lambda x: x.repeat_interleave(times, 0))
        latent, variance, state = self.predictor.step_spread(state, actions.flatten(0, 1))

        def longer(known: Tensor, last: Tensor) -> Tensor:
            last = last.reshape(*actions.shape[:2], 1, -1)
            return torch.cat([known.repeat_interleave(times, 1), last], 2)

        latents, empty = longer(rollout.latents, latent), rollout.latents[:, :, :0]
        if variance is not None:
            variance = longer(empty if rollout.variance is None else rollout.variance, variance)
        return Rollout(rollout.start, longer(rollout.actions, actions), latents, variance, state)

    def _check_length(self, steps: int) -> None:
        if steps > self.horizon:
            raise ValueError(
                f"planner.level{self.k}.strategy predicts {steps} steps; expected at most planner.level{self.k}.horizon, {self.horizon}"
            )

    def follow_inverse(self, latent: Tensor, memory: Any, target: Target, clamp: Callable[[Tensor], Tensor]) -> Rollout:
        """Predict where the inverse model of the target's level leads; it chooses each action at the predicted latent.

        Args:
            latent: where the episodes are, (B, D).
            memory: the predictor's recurrent state there, see `memory`.
            target: has a latent.
            clamp: actions (B, A) into their bounds.
        """
        wanted, inverse = target.latent, self.inverses[target.level]
        assert wanted is not None, "checked at the start of the episodes"

        def choose(h: int, latent: Tensor) -> Tensor:
            left = torch.full(latent.shape[:1], max(1.0, target.deadline / self.period - h), device=latent.device)
            return clamp(inverse(latent, wanted, left))

        actions, latents, variance = unroll(self.predictor, latent, memory, choose, self.horizon)
        variance = None if variance is None else variance.unsqueeze(1)
        return Rollout(latent, actions.unsqueeze(1), latents.unsqueeze(1), variance)

    def primitive(self, actions: Tensor, age: int) -> Tensor:
        """The primitive action of an `executable` plan of level 0 that is `age` environment steps old, (B, A)."""
        return actions[:, age // self.stride].unflatten(-1, (self.stride, -1))[:, age % self.stride]

    def executable(self, actions: Tensor) -> Tensor:
        """A plan (B, H, A) of level 0 in the units of the environment and within its bounds; of other levels as it is."""
        if self.k:
            return actions
        assert isinstance(self.action_encoder, RawActionEncoder), "checked before training"
        return self.action_encoder.decode(actions).clamp(self.low, self.high).flatten(-2)


def _mean_step(level: Level, bank: ActionBank | None, p: int) -> Tensor:
    scale = level.predictor.scale
    return distance(scale, torch.zeros_like(scale), p) if bank is None else mean_step(level, bank, p)
