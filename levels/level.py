"""One level of the hierarchy: encoder, action encoder, predictor, inverse model, losses.

Shape letters, here and everywhere: B batch, T time, S samples (candidates), H horizon, D latent, A action,
M landmarks, E edges.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiwm.checks import within
from hiwm.levels.clip import Clip, Pairs
from hiwm.levels.inverse import InverseModel
from hiwm.levels.maps import AroundAgent, MapEmbedding, check_agents
from hiwm.levels.output import EncodedClip, LevelOutput
from hiwm.levels.parts import ActionEncoder, Encoder, Predictor, Regularizer
from hiwm.levels.standardize import Standardize, split_columns
from hiwm.levels.target import EMATarget
from hiwm.levels.trainable import Trainable


class Level(Trainable):
    """A latent dynamics model that sees the level below as its environment.

        z  = encoder(inputs)              inputs: the observation, or the latent of the level below
        m  = action_encoder(z, actions)   `stride` actions of the level below
        z' = predictor(z, m)

    With a learned encoder, kept from collapse by regularizers or a target encoder, it is a JEPA. With an identity encoder and
    without regularizers, the default of level 0 over a state, it is a dynamics model on the standardised state.
    Do not subclass it; replace its parts instead.

    Args:
        stride: steps of the level below (level 0: of the environment) in one step of this level.
        horizon: steps T of this level in a training window.
        inputs: shape of one step of every input.
        min_std: smallest standard deviation an input is divided by, in its own unit; None leaves inputs as they are
            (bytes are divided by 255).
        encoder, action_encoder, predictor, inverse: parts of the level; `parts.py` and `inverse.py` define them. Without an inverse
            model, the level below must search for its actions.
        target: the encoder whose latents are the prediction targets; None for the encoder itself.
        regularizers: name -> module (output, generator) -> scalar.
        loss_weights: loss name -> weight; the names must be exactly those of the losses: prediction, inverse,
            regularizers.
    """

    def __init__(
        self,
        *,
        stride: int,
        horizon: int,
        inputs: Mapping[str, tuple[int, ...]],
        min_std: float | None,
        encoder: Encoder,
        action_encoder: ActionEncoder,
        predictor: Predictor,
        inverse: InverseModel | None,
        target: EMATarget | None,
        regularizers: Mapping[str, Regularizer],
        loss_weights: Mapping[str, float],
    ) -> None:
        super().__init__()
        names = {"prediction", *regularizers} | ({"inverse"} if inverse is not None else set())
        if set(loss_weights) != names:
            raise ValueError(f"loss_weights has the keys {sorted(loss_weights)}; expected exactly {sorted(names)}")
        within("[0, inf)", **{f"loss_weights.{name}": weight for name, weight in loss_weights.items()})
        self.stride = stride
        self.horizon = horizon
        self.min_std = min_std
        self.standardize = Standardize(inputs, min_std or 0.0)
        self.encoder = encoder
        self.action_encoder = action_encoder
        self.predictor = predictor
        self.inverse = inverse
        self.target = target
        self.regularizers: Mapping[str, Regularizer] = nn.ModuleDict(regularizers)  # type: ignore[assignment]
        self.loss_weights = dict(loss_weights)
        if blind := [name for name, part in regularizers.items() if part.imagines and not part.fit_windows]:
            raise ValueError(f"the regularizer {blind[0]} imagines, and its fit_windows is 0; expected at least 1")
        #: whether the latent distance is a number of steps
        self.metric = any(regularizer.metric for regularizer in regularizers.values())
        self.map_sides = {part.side for part in self.modules() if isinstance(part, AroundAgent | MapEmbedding)}
        if self.map_sides and min_std is not None:
            raise ValueError(
                f"min_std is {min_std} and a part has a map_side; expected min_std=null, because a map is read in cells"
            )
        # the inverse model takes the latent of the level below; level 0 has no level below and takes its own latent
        self.reads_latent = tuple(inputs) == ("latent",)

    @property
    def p(self) -> int:
        """Power of the `distance` that the level plans by."""
        return 1 if self.metric else 2

    def fit(self, clip: Clip, mean: Mapping[str, Tensor], std: Mapping[str, Tensor]) -> None:
        """Set the input statistics of the dataset, and `Predictor.scale` on a sample clip, before training.

        Raises:
            ValueError: a part has a map_side, and the inputs are no positions on a map.
        """
        if self.min_std is None:
            mean = {name: torch.zeros_like(value) for name, value in mean.items()}
            bytes_ = {name: clip.inputs[name].dtype == torch.uint8 for name in std}
            std = {name: torch.full_like(value, 255.0 if bytes_[name] else 1.0) for name, value in std.items()}
        self.standardize.fit(mean, std)
        for side in self.map_sides:
            check_agents(self.join_inputs(clip.inputs), side)
        with torch.no_grad():
            self.fit_step(self.encode(clip.inputs))

    def fit_step(self, latent: Tensor) -> None:
        """Set `Predictor.scale` from latents (B, T+1, D), before training."""
        self.predictor.fit((latent[:, 1:] - latent[:, :-1]).square().mean((0, 1)).sqrt())

    def fit_regularizers(self, inputs: Mapping[str, Tensor]) -> None:
        """Show many windows of named inputs, each (N, T+1, *shape), to the regularizers that ask for them, before training."""
        standardized = self.standardize(inputs)
        for regularizer in self.regularizers.values():
            if regularizer.fit_windows:
                regularizer.fit(standardized)

    @property
    def fit_windows(self) -> int:
        """Windows that the regularizers ask for, at most."""
        return max((regularizer.fit_windows for regularizer in self.regularizers.values()), default=0)

    @property
    def imagines(self) -> bool:
        """Whether regularizers look at what the level predicts, for which it is trained twice."""
        return any(regularizer.imagines for regularizer in self.regularizers.values())

    @torch.no_grad()
    def imagine(self, clip: Clip) -> None:
        """Let the regularizers that ask for it look at what the level predicts, once its dynamics are trained; the clip has `fit_windows` windows."""
        self.eval()  # an ensemble predicts the mean of its members, the same in every process
        inputs, actions = self.join_inputs(clip.inputs)[:, 0], clip.actions[:, 0]
        for regularizer in self.regularizers.values():
            if regularizer.imagines:
                regularizer.imagine(inputs[: regularizer.fit_windows], actions[: regularizer.fit_windows], self._step)
        self.train()

    def _step(self, latent: Tensor, actions: Tensor) -> Tensor:
        """The latent after actions of the level below, predicted: (N, D), (N, stride, A_below) -> (N, D)."""
        return self.predict(latent, self.encode_actions(latent, actions))

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Named inputs, each (..., *shape) -> latent (..., D)."""
        return self.encoder(self.standardize(inputs))

    def join_inputs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Named inputs, each (B, T, *shape) -> what the encoder sees of them, one after another, (B, T, X)."""
        return torch.cat([values.flatten(2) for values in self.standardize(inputs).values()], -1)

    def read_inputs(self, latent: Tensor) -> dict[str, Tensor] | None:
        """The named inputs that a latent (..., D) holds, each (..., *shape) in its own unit; None if the encoder does not keep them."""
        if (values := self.encoder.read_inputs(latent)) is None:
            return None
        columns = split_columns(values, self.standardize.shapes)
        return {name: self.standardize.undo(name, column) for name, column in columns.items()}

    def encode_actions(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(..., D), (..., stride, A_below) -> macro-action (..., A)."""
        return self.action_encoder(self.encoder.for_actions(latent), actions)

    def predict(self, latent: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> next latent (..., D)."""
        return self.predictor(latent, action)

    def rollout(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(B, D), (B, H, A) -> the latents after each action, (B, H, D), each predicted from the one before."""
        return self.predictor.rollout(latent, actions)

    def infer_action(self, source: Tensor, target: Tensor, steps_left: Tensor) -> Tensor:
        """Predict, with the inverse model, the action of the level below that leads to `target`.

        Args:
            source: latent of the level below, (..., D_below); at level 0 this level's own latent, (..., D).
            target: latent of this level to reach, (..., D).
            steps_left: steps of the level below until the deadline, (...).

        Returns:
            An action of the level below, (..., A_below); at level 0 a standardised primitive action.
        """
        if self.inverse is None:
            raise ValueError("this level has no inverse model; levels.level<k>.inverse is null")
        source = self.standardize({"latent": source})["latent"] if self.reads_latent else self.encoder.rescale(source)
        return self.inverse(source, self.encoder.rescale(target), steps_left)

    def encode_clip(self, clip: Clip) -> EncodedClip:
        """Encode a clip of any length."""
        inputs = self.standardize(clip.inputs)
        latent = self.encoder(inputs)
        target = latent if self.target is None else self.target(inputs)
        chunk = self.action_encoder.standardize(clip.actions).flatten(-2)
        return EncodedClip(inputs, latent, self.encode_actions(latent[:, :-1], clip.actions), target, chunk)

    def predict_clip(self, encoded: EncodedClip) -> LevelOutput:
        """Predict an encoded clip: one step ahead within the first C latents, the predictor's context, then open-loop."""
        predicted = self.predictor.rollout_in_context(encoded.latent, encoded.action)
        return LevelOutput(
            encoded.inputs, encoded.latent, encoded.action, predicted, encoded.target[:, 1:], encoded.chunk
        )

    def output(self, clip: Clip) -> LevelOutput:
        """Encode a clip and predict it."""
        return self.predict_clip(self.encode_clip(clip))

    def forward(self, clip: Clip, generator: torch.Generator) -> dict[str, Tensor]:
        """Encode and predict a clip and return its losses; `losses_of` describes them."""
        return self.losses_of(self.output(clip), clip.pairs, generator)

    def losses_of(self, output: LevelOutput, pairs: Pairs | None, generator: torch.Generator) -> dict[str, Tensor]:
        """Named scalars, unweighted; the keys are those of `loss_weights`.

        The prediction error has no stop-gradient (LeWM; LeJEPA). Without a target encoder, only the regularizers keep the
        latent from collapsing. The inverse model learns from detached latents, so it does not shape the representation.

        Args:
            output: encoded and predicted clip.
            pairs: training pairs of the inverse model; None for a level without one.
            generator: randomness of the regularizers, in the same state in every process.
        """
        losses = {"prediction": self.predictor.error(output.predicted, output.target)}
        if pairs is not None:
            with torch.no_grad():
                source = pairs.source["latent"] if self.reads_latent else self.encode(pairs.source)
                target = self.encode(pairs.target)
            losses["inverse"] = F.mse_loss(
                self.infer_action(source, target, pairs.steps), self.action_encoder.standardize(pairs.action)
            )
        for name, regularizer in self.regularizers.items():
            losses[name] = regularizer(output, generator)
        return losses

    def after_step(self) -> None:
        if self.target is not None:
            self.target.follow(self.encoder)

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the losses."""
        return torch.stack([self.loss_weights[name] * loss for name, loss in losses.items()]).sum()
