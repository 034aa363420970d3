"""Min-plus message passing."""

from __future__ import annotations

from torch import Tensor
from torch_geometric.nn import MessagePassing


class MinPlus(MessagePassing):
    """cost_i = min over edges i -> j of (w_ij + cost_j): one sweep of Bellman-Ford; staying is a self-loop of weight 0."""

    def __init__(self) -> None:
        super().__init__(aggr="min", flow="target_to_source")

    def forward(self, cost: Tensor, edge_index: Tensor, weight: Tensor) -> Tensor:
        """Costs to G goals (M, G), edges (2, E), weights (E,) -> (M, G)."""
        return self.propagate(edge_index, x=cost, weight=weight)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return x_j + weight.unsqueeze(-1)
