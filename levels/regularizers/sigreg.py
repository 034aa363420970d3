"""SIGReg: latents distributed as a standard Gaussian, tested along random directions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hiwm.levels.distributed import average_over_processes
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Regularizer


class SIGReg(Regularizer):
    """Sketched Isotropic Gaussian Regularization (LeJEPA, arXiv 2511.08544, section 4: Epps-Pulley statistic).

    For random unit directions u and x = <u, z>, the mean over u of

        integral over t in [-bound, bound] of |E exp(i t x) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,

    by the trapezoid rule. The paper's factor N (rows) is left out, so that a weight means the same at any batch size.

    Args:
        of: the variable to make Gaussian: "latent" z, "action" m, or "joint" [z, m] (then m is also independent of z).
        num_directions: random directions, drawn anew at every call.
        num_knots: points t of the trapezoid rule on [0, bound]; the one at 0, where the integrand is 0, is left out.
        bound: largest t.
    """

    knots: Tensor
    gaussian: Tensor
    weights: Tensor

    def __init__(
        self,
        *,
        of: Literal["latent", "action", "joint"],
        num_directions: int = 32,
        num_knots: int = 7,
        bound: float = 3.0,
    ) -> None:
        super().__init__()
        if of not in ("latent", "action", "joint"):
            raise ValueError(f"SIGReg: of is {of!r}; expected latent, action, joint")
        self.of = of
        self.num_directions = num_directions
        knots = torch.linspace(0, bound, num_knots)[1:]
        weights = torch.full_like(knots, 2 * bound / (num_knots - 1))  # twice: the integrand is even in t
        weights[-1] /= 2
        self.register_buffer("knots", knots, persistent=False)
        self.register_buffer("gaussian", torch.exp(-(knots**2) / 2), persistent=False)
        self.register_buffer("weights", weights * torch.exp(-(knots**2) / 2), persistent=False)

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        """Scalar. `generator` must be in the same state in every process."""
        rows = output.rows(self.of)  # (N, D)
        directions = torch.randn(rows.shape[1], self.num_directions, generator=generator, device=generator.device)
        directions = (directions / directions.norm(dim=0)).to(rows)
        phase = (rows @ directions).unsqueeze(-1) * self.knots  # (N, num_directions, num_knots - 1)
        # both parts in one message between processes
        real, imaginary = average_over_processes(torch.stack([phase.cos().mean(0), phase.sin().mean(0)]))
        return (((real - self.gaussian) ** 2 + imaginary**2) @ self.weights).mean()
