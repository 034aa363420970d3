"""The multilayer perceptron that all parts of a level use, and the positional encoding of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiwm.checks import at_least, within
from hiwm.levels.maps import AroundAgent


class PositionalEncoding(nn.Module):
    """x, and sin(2^k x) and cos(2^k x) of the encoded inputs, k = 0 ... K-1.

    Equation 4 of Mildenhall et al. 2020 (arXiv 2003.08934) with x itself, and without the factor pi, because inputs are standardised.

    A perceptron learns slowly what changes within a short distance (Tancik et al. 2020, arXiv 2006.10739), such as on which side of a thin wall a position is. It
    memorises encoded inputs that describe a whole episode, such as a map: encode the positions alone.

    Args:
        dim_in: number of inputs.
        frequencies: number K.
        encoded: number of leading inputs that are encoded; None: all.
    """

    def __init__(self, dim_in: int, frequencies: int, encoded: int | None = None) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.encoded = dim_in if encoded is None else encoded
        within(f"[1, {dim_in}]", encoded=self.encoded)
        self.dim = dim_in + self.encoded * 2 * frequencies

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) -> (..., dim)."""
        phase = (x[..., : self.encoded].unsqueeze(-1) * 2.0 ** torch.arange(self.frequencies, device=x.device)).flatten(
            -2
        )
        return torch.cat([x, phase.sin(), phase.cos()], -1)


def mlp(
    dim_in: int,
    width: int,
    depth: int,
    dim_out: int,
    frequencies: int = 0,
    encoded: int | None = None,
    around: AroundAgent | None = None,
) -> nn.Sequential:
    """`depth` hidden layers of Linear, LayerNorm, GELU, then a Linear: (..., dim_in) -> (..., dim_out).

    With `frequencies` K > 0, the `PositionalEncoding` of the first `encoded` inputs comes first; None: of all. With `around`, a map is first
    replaced by the cells around the agent.
    """
    at_least(0, frequencies=frequencies)
    if encoded is not None and not frequencies:
        raise ValueError(f"encoded is {encoded} but frequencies is 0; expected null, or frequencies of at least 1")
    layers: list[nn.Module] = []
    if around is not None:
        if frequencies:
            raise ValueError("map_side and frequencies are both set; expected one of the two")
        layers.append(around)
        dim_in = around.dim
    if frequencies:
        encoding = PositionalEncoding(dim_in, frequencies, encoded)
        layers.append(encoding)
        dim_in = encoding.dim
    for i in range(depth):
        layers += [nn.Linear(dim_in if i == 0 else width, width), nn.LayerNorm(width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(width if depth else dim_in, dim_out))
