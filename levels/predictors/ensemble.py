"""Several predictors in one: their mean and their disagreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hiwm.levels.distributed import first_row
from hiwm.levels.parts import Predictor


class EnsemblePredictor(Predictor):
    """K predictors of one class with their own weights (deep ensembles, arXiv 1612.01474), computed in one call.

    In training mode, row i of the global batch goes to member i mod K alone, so that members see different data and
    disagree where data are rare. In eval mode the prediction is the mean of the members. A member rolls out from its
    own predictions, so the rollout state has the members as its second axis: (B, K, ...), or (B / K, K, ...) in training mode.

    Args:
        dim_latent: size D of the latent.
        members: the predictors; all of the same class and sizes.
    """

    def __init__(self, *, dim_latent: int, members: Sequence[Predictor]) -> None:
        super().__init__(dim_latent)
        kinds = {(type(m), tuple((n, x.shape) for n, x in m.state_dict().items())) for m in members}
        if len(kinds) != 1:
            raise ValueError(
                f"EnsemblePredictor: members are {[type(m).__name__ for m in members]}, of {len(kinds)} kinds or sizes; "
                "expected at least one, all of the same class with the same arguments"
            )
        weights, buffers = stack_module_state([_Methods(m) for m in members])
        self.num_members = len(members)
        self.passes = self.num_members * members[0].passes
        self.context = members[0].context
        # module names may not hold a dot
        self.weights = nn.ParameterDict({_key(name): weight.detach() for name, weight in weights.items()})
        for name, buffer in buffers.items():
            self.register_buffer(_key(name), buffer)
        self.buffer_names = tuple(buffers)
        # the computation of one member; the tuple keeps its weights out of the parameters of this module
        self.shape = (_Methods(members[0]),)

    def fit(self, change: Tensor) -> None:
        super().fit(change)
        self.shape[0].predictor.fit(change)
        fitted = dict(self.shape[0].named_buffers())
        for name in self.buffer_names:
            self.get_buffer(_key(name)).copy_(fitted[name])

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> (..., D)."""
        return self._pick(self._each("__call__", self._spread(latent), self._spread(action)), len(latent))

    def error(self, predicted: Tensor, target: Tensor) -> Tensor:
        """As the members measure it."""
        first = {_name(key): x[0] for key, x in self._members().items()}
        return functional_call(self.shape[0], first, ("error", predicted, target))

    def start(self, latent: Tensor) -> Any:
        """The rollout state of every member."""
        return self._each("start", self._spread(latent))

    def step(self, state: Any, action: Tensor) -> tuple[Tensor, Any]:
        latents, state = self._each("step", state, self._spread(action))
        return self._pick(latents, len(action)), state

    def step_spread(self, state: Any, action: Tensor) -> tuple[Tensor, Tensor | None, Any]:
        """As in `Predictor`; only in eval mode."""
        latents, state = self._each("step", state, self._spread(action))
        return latents.mean(1), latents.var(1) if self.num_members > 1 else None, state

    def correct(self, state: Any, latent: Tensor) -> Any:
        return self._each("correct", state, self._spread(latent))

    def _each(self, method: str, *arguments: Any) -> Any:
        """Call a method of every member; arguments and results have the members as their second axis."""

        def of_one(own: dict[str, Tensor], *arguments: Any) -> Any:
            return functional_call(self.shape[0], {_name(key): x for key, x in own.items()}, (method, *arguments))

        with sdpa_kernel(SDPBackend.MATH):  # the fused attention of CPUs has no batching rule
            return vmap(of_one, in_dims=(0, *(1 for _ in arguments)), out_dims=1)(self._members(), *arguments)

    def _members(self) -> dict[str, Tensor]:
        """Weights and buffers of all members, by key, (K, ...) each."""
        return dict(self.weights.items()) | {_key(name): self.get_buffer(_key(name)) for name in self.buffer_names}

    def _spread(self, rows: Tensor) -> Tensor:
        """Rows for the members: (B, ...) -> (B, K, ...), or in training mode (B / K, K, ...), padded with zeros."""
        if not self.training:
            return rows.unsqueeze(1).expand(-1, self.num_members, *rows.shape[1:])
        before = first_row(len(rows)) % self.num_members
        after = -(before + len(rows)) % self.num_members
        return F.pad(rows, (0, 0) * (rows.dim() - 1) + (before, after)).unflatten(0, (-1, self.num_members))

    def _pick(self, predictions: Tensor, rows: int) -> Tensor:
        """Predictions for `rows` rows: (B, K, ...), or in training mode (B / K, K, ...), -> (B, ...)."""
        if not self.training:
            return predictions.mean(1)
        before = first_row(rows) % self.num_members
        return predictions.flatten(0, 1)[before : before + rows]


class _Methods(nn.Module):
    """Calls a method of a predictor by name, because `functional_call` knows only `forward`."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, method: str, *arguments: Any) -> Any:
        return getattr(self.predictor, method)(*arguments)


def _key(name: str) -> str:
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
