"""Goals in words."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from hiwm.heads.text import TextHead
from hiwm.planning.goals.goal import Goal


class TextGoal(Goal):
    """States that captions are true of; the cost is -log of the probability that the caption is true.

    Args:
        embedding: embeddings of the captions, (B, 384), from `hiwm.heads.text.embed`.
        heads: text heads of all levels, bottom first.
    """

    def __init__(self, embedding: Tensor, heads: Sequence[TextHead]) -> None:
        self.embedding = embedding
        self.heads = heads

    @property
    def size(self) -> int:
        return len(self.embedding)

    def cost(self, level: int, latent: Tensor) -> Tensor:
        return F.softplus(-self.heads[level](self.embedding, latent))

    def select(self, rows: Tensor) -> TextGoal:
        return TextGoal(self.embedding[rows], self.heads)

    def reached_cost(self, level: int) -> Tensor:
        return self.heads[level].error.expand(self.size)
