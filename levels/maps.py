"""Networks for agents that observe their position and a map. They carry over to maps that are not in the data.

Their input is a vector [position, vectors, ..., map]: the position (x, y) in cells from the corner of the map, any number of other vectors in the plane, such as a
velocity, and a square map, row by row, 1 for a wall and 0 for a free cell; row j holds the cells at y from j to j + 1. So the level needs `min_std: null`.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: the rotations and mirror images of a square: whether x and y are swapped, then whether x and whether y are reversed
SYMMETRIES = tuple(itertools.product((False, True), repeat=3))
ITERATIONS_PER_CELL = 1.6  # of a side
AT_ONCE = 1024  # maps on a GPU, without gradients


class AroundAgent(nn.Module):
    """Replaces the position by the place within its cell, and the map by the cells near the agent.

    What happens next is then the same function everywhere, on every map.

    Args:
        dim_in: number of inputs X, map included.
        side: cells on a side of the map.
        view: the near cells are a square of 2 view + 1 cells on a side, which should hold all that one step can reach; beyond the edge, the
            map's last cells repeat.
        dim_more: number of inputs after the map, which are left alone.
    """

    offsets: Tensor

    def __init__(self, dim_in: int, side: int, view: int, dim_more: int = 0) -> None:
        super().__init__()
        check_map(dim_in, side)
        if view < 1:
            raise ValueError(f"view is {view}; expected at least 1")
        self.dim_in, self.side = dim_in, side
        self.register_buffer("offsets", torch.arange(-view, view + 1), persistent=False)
        self.dim = dim_in - side**2 + (2 * view + 1) ** 2 + dim_more

    def forward(self, x: Tensor) -> Tensor:
        """(..., X + more) -> (..., dim)."""
        around = self.dim_in - self.side**2
        cell = cell_of(x[..., :2], self.side)
        columns, rows = ((cell[..., i, None] + self.offsets).clamp(0, self.side - 1) for i in (0, 1))
        index = (rows.unsqueeze(-1) * self.side + columns.unsqueeze(-2)).flatten(-2)
        seen = x[..., around : self.dim_in].gather(-1, index)
        return torch.cat([x[..., :2] - cell - 0.5, x[..., 2:around], seen, x[..., self.dim_in :]], -1)


class MapEmbedding(nn.Module):
    """An embedding of an agent on a map, in which distances can be those of shortest paths, also on maps never seen.

    A small convolution, applied again and again, spreads what each cell knows over the map, as value iteration does (Tamar et al. 2016, arXiv 1602.02867):

        h_0 = 0,  h_i = ReLU(Conv([h_(i-1), ReLU(Conv([map, x, y]))])),  e = MLP([h_K of the agent's cell, place within it, vectors])

    with K = 1.6 side, about the cells of the longest paths. The embedding is [e_1, ..., e_8] of the eight rotations and mirror images of map, position and vectors. So the sum of
    absolute differences of two embeddings is the same for all eight, and a few maps teach as much as eight times as many.

    Args:
        dim_in: number of inputs X.
        dim: size of the embedding, a multiple of 8.
        side: cells on a side of the map.
        width: units of the hidden layer of the MLP.
        channels: of h.
    """

    matrices: Tensor
    place: Tensor

    def __init__(self, dim_in: int, dim: int, side: int, width: int, channels: int = 16) -> None:
        super().__init__()
        check_map(dim_in, side)
        if dim < 8 or dim % 8:
            raise ValueError(f"dim is {dim}; expected a multiple of 8, the rotations and mirror images of a map")
        self.dim, self.side, self.iterations = dim, side, round(ITERATIONS_PER_CELL * side)
        self.look = nn.Conv2d(3, channels, 3, padding=1)
        self.spread = nn.Conv2d(2 * channels, channels, 3, padding=1)
        dim_agent = channels + dim_in - side**2
        self.head = nn.Sequential(nn.Linear(dim_agent, width), nn.GELU(), nn.Linear(width, dim // 8))
        self.register_buffer("matrices", torch.stack([_matrix(*g) for g in SYMMETRIES]), persistent=False)
        middle = torch.arange(side) + 0.5 - side / 2
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        self.register_buffer("place", torch.stack([x, y]) / (side / 2), persistent=False)  # (2, side, side)
        self._known: tuple[tuple[tuple[int, int], ...], Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., X) -> (..., dim)."""
        leading, x = x.shape[:-1], x.reshape(-1, x.shape[-1])
        cell = cell_of(x[:, :2], self.side)
        vectors = torch.cat([x[:, :2] - cell - 0.5, x[:, 2 : x.shape[1] - self.side**2]], 1)
        # (N, V, 2), (8, 2, 2) -> (N, 8, V * 2)
        turned = torch.einsum("nvi,gij->ngvj", vectors.unflatten(1, (-1, 2)), self.matrices).flatten(2)
        features = self._features_at(cell, x[:, -(self.side**2) :] > 0.5)
        return self.head(torch.cat([features, turned], -1)).reshape(*leading, self.dim)

    def _features_at(self, cell: Tensor, walls: Tensor) -> Tensor:
        """Features of cells (N, 2) on maps (N, side^2), (N, 8, channels)."""
        if walls.device.type == "cpu":
            features, which = self._features(walls)  # pyright: ignore[reportCallIssue, reportArgumentType, reportGeneralTypeIssues]
            return features[which, :, cell[:, 1], cell[:, 0]]
        # to find the different maps, the CPU would wait for the GPU
        at_once = max(1, len(walls)) if torch.is_grad_enabled() else AT_ONCE
        blocks = zip(walls.split(at_once), cell.split(at_once), strict=True)
        return torch.cat(
            [self._spread(w)[torch.arange(len(w), device=w.device), :, c[:, 1], c[:, 0]] for w, c in blocks]
        )

    @torch.compiler.disable
    def _features(self, walls: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the different maps among (N, side^2), (M, 8, side, side, channels), and which of them each is, (N,).

        Planning asks for the same maps again and again, and a step of the training first with and then without gradients.
        """
        maps, which = torch.unique(walls, dim=0, return_inverse=True)
        weights = tuple((parameter.data_ptr(), parameter._version) for parameter in self.parameters())
        if self._known is not None and not torch.is_grad_enabled():
            of_weights, of_maps, features = self._known
            if of_weights == weights and torch.equal(of_maps, maps):
                return features, which
        features = self._spread(maps)
        self._known = (weights, maps, features.detach())
        return features, which

    def _spread(self, maps: Tensor) -> Tensor:
        """Features of maps, (M, side^2) -> (M, 8, side, side, channels), in the orientation of the maps."""
        images = maps.float().unflatten(1, (self.side, self.side))
        turned = torch.stack([_turn(images, *g) for g in SYMMETRIES], 1).flatten(0, 1).unsqueeze(1)
        seen = F.relu(self.look(torch.cat([turned, self.place.expand(len(turned), -1, -1, -1)], 1)))
        h = torch.zeros_like(seen)
        for _ in range(self.iterations):
            h = F.relu(self.spread(torch.cat([h, seen], 1)))
        h = h.unflatten(0, (len(maps), 8))
        return torch.stack([_turn_back(h[:, i], *g) for i, g in enumerate(SYMMETRIES)], 1).permute(0, 1, 3, 4, 2)


def cell_of(position: Tensor, side: int) -> Tensor:
    """Column and row of the cell of a position, (..., 2), within the map."""
    return position.floor().clamp(0, side - 1).long()


def check_map(dim_in: int, side: int) -> None:
    """Refuse sizes that cannot be those of [position, vectors, ..., map]; whether the numbers are vectors, it cannot know."""
    others = dim_in - side**2
    if side < 1 or others < 2 or others % 2:
        raise ValueError(
            f"map_side is {side}, so that {others} of the {dim_in} inputs are not the map; expected an even number: position, "
            "then vectors of two numbers. The map is the last of `inputs`"
        )


def check_agents(x: Tensor, side: int) -> None:
    """Refuse inputs (..., X) that do not begin with positions on a map and end with a map.

    Raises:
        ValueError: a position or a map has values out of range.
    """
    position, walls = x[..., :2], x[..., -(side**2) :]
    for name, values, most in (("first two, the position,", position, side), (f"last {side**2}, the map,", walls, 1)):
        low, high = values.amin().item(), values.amax().item()
        if low < 0 or high > most:
            raise ValueError(
                f"map_side is {side}, but of the inputs the {name} are between {low:.3g} and {high:.3g}; expected 0 to {most}. "
                "List the position first in `inputs` and the map last, in cells"
            )


def _turn(images: Tensor, swap: bool, *reverse: bool) -> Tensor:
    """Images (..., y, x) after a symmetry."""
    return (images.transpose(-2, -1) if swap else images).flip(_reversed(reverse))


def _turn_back(images: Tensor, swap: bool, *reverse: bool) -> Tensor:
    images = images.flip(_reversed(reverse))
    return images.transpose(-2, -1) if swap else images


def _reversed(reverse: tuple[bool, ...]) -> list[int]:
    return [axis for axis, flipped in zip((-1, -2), reverse, strict=True) if flipped]


def _matrix(swap: bool, *reverse: bool) -> Tensor:
    """A symmetry as a matrix, (2, 2): a row (x, y) times the matrix."""
    signs = torch.diag(torch.tensor([-1.0 if flipped else 1.0 for flipped in reverse]))
    return signs.flip(0) if swap else signs
