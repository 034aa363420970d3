"""Masked prediction: pretraining of a vision transformer from images alone, without actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiwm.levels.clip import Clip
from hiwm.levels.encoders.vit import ViTEncoder, transformer
from hiwm.levels.parts import Encoder
from hiwm.levels.precision import half_precision
from hiwm.levels.standardize import Standardize
from hiwm.levels.target import EMATarget
from hiwm.levels.trainable import Trainable


class MaskedPrediction(Trainable):
    """The latents of masked patches, predicted from the visible ones (I-JEPA, arXiv 2301.08243; V-JEPA, arXiv 2404.08471).

        c = trunk(visible patches)            each frame by itself
        p = predictor(c, mask tokens)         over the patches of all frames
        loss = smooth-L1(p, layer norm of target(image) at the masked patches)

    The target is a slow copy of the trunk that sees whole frames, without gradient. With one frame this is I-JEPA's
    prediction of blocks. With more, the same blocks are masked in every frame (V-JEPA's tubes), but frames are encoded
    one by one, because a level encodes single observations, and only the predictor attends over time. Further differences: all masked patches
    are predicted at once (I-JEPA: block by block); all other patches are visible (as in V-JEPA; I-JEPA also crops the
    context); positions are learned; the momentum of the target is constant. A batch shares one mask, so that its rows
    have equally many visible patches (the papers draw a mask for each image and drop surplus patches). Every block has
    its own size and aspect (in the papers, one size for a batch); the aspect is uniform in its logarithm. V-JEPA uses
    two kinds of masks at once, and this class uses one.

    Args:
        encoder: the encoder whose trunk learns.
        standardize: the fitted standardisation of the level.
        frames: number T of frames, one step of the level apart; 1 for images.
        blocks: number of masked rectangles, which may overlap.
        scale: least and largest area of a rectangle, as a share of the image, in (0, 1).
        aspect: least and largest height of a rectangle over its width.
        beta: errors below it are squared (smooth L1); 0 for L1.
        momentum: share of its weights that the target keeps at every step.
        width: size of a token of the predictor, smaller than a token of the trunk.
        depth: layers of the predictor.
        heads: attention heads of the predictor.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        standardize: Standardize,
        frames: int,
        blocks: int,
        scale: Sequence[float],
        aspect: Sequence[float],
        beta: float,
        momentum: float,
        width: int = 96,
        depth: int = 4,
        heads: int = 3,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, ViTEncoder):
            raise ValueError(
                f"encoder is {type(encoder).__name__}; expected a ViTEncoder, whose patches can be masked. Choose encoder=vit_patches"
            )
        if encoder.read != "patches":
            raise ValueError(
                f"encoder.read is {encoder.read}; expected patches, because masked prediction trains no CLS token"
            )
        self.trunk = encoder.trunk
        patches = self.trunk.grid[0] * self.trunk.grid[1]
        if patches < 2:
            raise ValueError(
                "the image is one patch; expected at least two, because some must be masked. Lower encoder.patch"
            )
        for name, value in {"frames": frames, "blocks": blocks, "width": width, "depth": depth, "heads": heads}.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1")
        for name, value, most in (("beta", beta, float("inf")), ("momentum", momentum, 1.0)):
            if not isinstance(value, (int, float)) or not 0 <= value <= most:
                raise ValueError(f"{name} is {value!r}; expected a number of at least 0, momentum at most 1")
        if not all(isinstance(pair, Sequence) for pair in (scale, aspect)):
            raise ValueError(f"scale is {scale!r}, aspect is {aspect!r}; expected two numbers each, least and largest")
        if not (len(scale) == len(aspect) == 2 and 0 < scale[0] <= scale[1] < 1 and 0 < aspect[0] <= aspect[1]):
            raise ValueError(
                f"scale is {list(scale)}, aspect is {list(aspect)}; expected a least and a largest number above 0, scale below 1"
            )
        if width % heads:
            raise ValueError(f"width is {width}; expected a multiple of heads, {heads}")
        self.standardize = standardize
        self.name = encoder.name
        self.frames, self.blocks, self.scale, self.aspect, self.beta = frames, blocks, scale, aspect, beta
        self.target = EMATarget(encoder=self.trunk, momentum=momentum)
        self.embed = nn.Linear(self.trunk.width, width)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.place = nn.Parameter(0.02 * torch.randn(patches, width))
        self.time = nn.Parameter(0.02 * torch.randn(frames, 1, width))
        self.predictor = transformer(width, depth, heads)
        self.read = nn.Linear(width, self.trunk.width)

    def forward(self, clip: Clip, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss.

        Args:
            clip: windows of T frames, (B, T, H, W, C); its actions are not used.
            generator: draws the mask; in the same state in every process.
        """
        images = self.standardize(clip.inputs)[self.name]
        visible, masked = self.draw_mask(generator)
        loss = F.smooth_l1_loss(self.predict(images, visible, masked), self.targets(images, masked), beta=self.beta)
        return {"masked": loss}

    def predict(self, images: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Standardised (B, T, H, W, C), numbers of the patches (V,), (M,) -> the predicted latents, (B, T, M, width)."""
        with half_precision(images.device):
            context = self.trunk.attend(self.trunk.embed(images.flatten(0, 1))[:, visible])[:, 1:]
            context = self.embed(context).unflatten(0, images.shape[:2]) + self.place[visible] + self.time
            queries = (self.mask + self.place[masked] + self.time).expand(len(images), -1, -1, -1)  # (B, T, M, width)
            tokens = torch.cat([context, queries], 2)
            predicted = self.predictor(tokens.flatten(1, 2)).unflatten(1, tokens.shape[1:3])
            return self.read(predicted[:, :, len(visible) :]).float()

    def targets(self, images: Tensor, masked: Tensor) -> Tensor:
        """Standardised (B, T, H, W, C), numbers of the patches (M,) -> the target latents, (B, T, M, width)."""
        with half_precision(images.device):
            latent = self.target(images.flatten(0, 1))[:, 1:][:, masked]
        return F.layer_norm(latent.float(), latent.shape[-1:]).unflatten(0, images.shape[:2])

    def draw_mask(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Numbers of the visible patches (V,) and of the masked ones (M,), at least one of each."""
        rows, columns = self.trunk.grid
        hidden = torch.zeros(rows, columns, dtype=torch.bool)
        for _ in range(self.blocks):
            scale, aspect, top, left = torch.rand(4, generator=generator).tolist()
            area = rows * columns * (self.scale[0] + scale * (self.scale[1] - self.scale[0]))
            ratio = self.aspect[0] * (self.aspect[1] / self.aspect[0]) ** aspect
            height = min(rows, max(1, round((area * ratio) ** 0.5)))
            width = min(columns, max(1, round((area / ratio) ** 0.5)))
            if height * width == rows * columns:  # rounding on a small grid
                height, width = (height - 1, width) if height > 1 else (height, width - 1)
            top, left = int(top * (rows - height + 1)), int(left * (columns - width + 1))
            more = hidden.clone()
            more[top : top + height, left : left + width] = True
            if not more.all():  # a block that would hide the last visible patches is left out
                hidden = more
        device = self.place.device
        return (~hidden).flatten().nonzero()[:, 0].to(device), hidden.flatten().nonzero()[:, 0].to(device)

    @torch.no_grad()
    def evaluate(self, clip: Clip) -> dict[str, float]:
        """Loss on held-out windows, and standard deviation of the targets between windows, from 0 (collapsed) to about 1."""
        loss = self(clip, torch.Generator().manual_seed(0))["masked"]
        every = torch.arange(len(self.place), device=self.place.device)
        targets = self.targets(self.standardize(clip.inputs)[self.name], every)
        return {"loss_masked": loss.item(), "target_std": targets.std(0).mean().item()}

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The loss to lower."""
        return losses["masked"]

    def after_step(self) -> None:
        self.target.follow(self.trunk)
