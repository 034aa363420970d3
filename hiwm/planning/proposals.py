"""Where a search over a level's actions begins: anywhere, where real actions lie, or around a sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hiwm.planning.macros import MacroActions
from hiwm.planning.solvers.categorical import likeliest
from hiwm.planning.solvers.solver import Objective, Proposal, best_of

REAL = ("queue", "bank")
PROPOSALS = (
    "gaussian", "inverse", "inverse+search", *REAL, "prior",
    "gaussian+inverse", "gaussian+bank", "gaussian+inverse+bank", "queue+inverse", "queue+bank", "queue+inverse+bank",
    "bank+inverse", "inverse+search+bank",
)  # fmt: skip

PRIMITIVE = tuple(name for name in PROPOSALS if name != "prior")  # those of level 0, whose actions are no macro-actions


@dataclass(frozen=True)
class Mixture:
    """A proposal's name taken apart.

    Args:
        first: where the search begins, gaussian, inverse+search, queue, bank or prior; inverse: there is none.
        guesses: what its first round also tries, inverse (the inverse model's actions) or bank (real sequences).
    """

    first: str
    guesses: tuple[str, ...] = ()

    @staticmethod
    def of(name: str) -> Mixture:
        """Take one of `PROPOSALS` apart."""
        first, *guesses = name.replace("inverse+search", "inverse search").split("+")
        return Mixture(first.replace(" ", "+"), tuple(guesses))

    @property
    def asks_inverse(self) -> bool:
        """Whether it needs an inverse model."""
        return self.first.startswith("inverse") or "inverse" in self.guesses

    @property
    def asks_bank(self) -> bool:
        """Whether it needs real sequences."""
        return "bank" in (self.first, *self.guesses)

    def without_inverse(self) -> Mixture:
        """The same where no inverse model can be asked: a Gaussian stands in for its actions."""
        first = "gaussian" if self.first.startswith("inverse") else self.first
        return Mixture(first, tuple(guess for guess in self.guesses if guess != "inverse"))


#: those that any level has, without an inverse model or a prior
FREE = tuple(name for name in PRIMITIVE if not Mixture.of(name).asks_inverse)


@dataclass(frozen=True)
class SearchSpace:
    """What a search over a level's actions chooses: at level 0 primitive actions, not chunks of them; each is held.

    Args:
        horizon: actions of the level in a plan, H.
        dim: size of one, A.
        dim_free: size F of what is chosen at once, a primitive action at level 0 and A elsewhere.
        repeat: how many of those a choice is held for; C choices of F numbers make H actions.
        low, high: bounds of a choice, (F,) or ().
        discrete: a choice is one of F options, a one-hot vector; a proposal's mean then holds their probabilities.
    """

    horizon: int
    dim: int
    dim_free: int
    repeat: int
    low: Tensor
    high: Tensor
    discrete: bool = False

    def clamp(self, actions: Tensor) -> Tensor:
        """Actions of the level within the bounds, or the options nearest to them, (..., A) -> (..., A)."""
        free = actions.unflatten(-1, (-1, self.dim_free))
        return (likeliest(free) if self.discrete else free.clamp(self.low, self.high)).flatten(-2)

    def choices(self, actions: Tensor) -> Tensor:
        """Actions of the level as choices, each the mean of those it is held for, (B, H, A) -> (B, C, F)."""
        return actions.reshape(len(actions), -1, self.repeat, self.dim_free).mean(2)

    def actions(self, choices: Tensor) -> Tensor:
        """Choices as actions of the level, (B, C, F) -> (B, H, A)."""
        return choices.repeat_interleave(self.repeat, 1).reshape(len(choices), -1, self.dim)

    def shifted(self, choices: Tensor, steps: int, mean: Tensor) -> Tensor:
        """Choices made so many steps ago (of those a choice is held for), from now on.

        Args:
            choices: (B, G, C, F).
            steps: of the level; at level 0, of the environment.
            mean: choices that fill the end, (B, C, F).
        """
        if steps == 0:
            return choices
        before = choices.repeat_interleave(self.repeat, 2)
        end = mean.repeat_interleave(self.repeat, 1)[:, -steps:].unsqueeze(1).expand(-1, choices.shape[1], -1, -1)
        return torch.cat([before[:, :, steps:], end], 2).unflatten(2, (-1, self.repeat)).mean(3)


def anywhere(space: SearchSpace, batch: int, std: float) -> Proposal:
    """N(0, std); of discrete choices all options alike."""
    value = 1 / space.dim_free if space.discrete else 0.0
    mean = space.choices(space.low.new_full((batch, space.horizon, space.dim), value))
    return Proposal(mean, torch.full_like(mean, std), space.low, space.high)


def like_real(space: SearchSpace, batch: int, macros: MacroActions) -> Proposal:
    """The mean and deviation of real actions, whatever the latent; held, an action varies as much as each it stands for."""
    shape = (batch, space.horizon, space.dim)
    mean, std = (space.choices(value.expand(shape)) for value in (macros.mean, macros.std))
    return Proposal(mean, std, space.low, space.high)


def around(space: SearchSpace, mean: Tensor, std: float) -> Proposal:
    """The neighbourhood of choices (B, C, F), which the bounds never cut: a real action may lie beyond the quantiles.

    Of discrete choices half of the probability goes to all options alike.
    """
    if space.discrete:
        mean = (mean + 1 / space.dim_free) / 2
    low, high = torch.minimum(space.low, mean), torch.maximum(space.high, mean)
    return Proposal(mean, torch.full_like(mean, std), low, high)


def trying(proposal: Proposal, guesses: Tensor) -> Proposal:
    """The proposal with more guesses (B, G, C, F) behind those it has; as in `around`, the bounds do not cut them."""
    low, high = torch.minimum(proposal.low, guesses.amin(1)), torch.maximum(proposal.high, guesses.amax(1))
    if proposal.guesses is not None:
        guesses = torch.cat([proposal.guesses, guesses], 1)
    return Proposal(proposal.mean, proposal.std, low, high, guesses)


def from_bank(space: SearchSpace, macros: MacroActions, latent: Tensor, number: int) -> Tensor:
    """The `number` real sequences that started nearest to the latents (B, D), nearest first, (B, n, C, F)."""
    near = macros.nearest(latent, number, space.horizon)  # (B, n, H, A)
    return space.choices(near.flatten(0, 1)).unflatten(0, near.shape[:2])


def best_of_bank(space: SearchSpace, macros: MacroActions, latent: Tensor, number: int, objective: Objective) -> Tensor:
    """Of the `number` real sequences that started nearest to the latents (B, D), the one of least cost, (B, C, F).

    The predictor is a better judge than the distance of the starts, so as many are tried as it has time for.
    """
    candidates = from_bank(space, macros, latent, number)
    scores = objective(candidates).without_nan()
    return best_of(candidates, scores, scores.order(1)).actions
