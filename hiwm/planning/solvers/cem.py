"""Cross-entropy method (Rubinstein 1999): sample, keep the elite, fit a Gaussian to it, again."""

from __future__ import annotations

import torch

from hiwm.planning.solvers.solver import Energy, Proposal, Solution


class CEM:
    """CEM with the best candidate ever seen as its answer; the proposal's mean is always a candidate.

    Args:
        iterations: rounds.
        elite_share: share of the candidates the next Gaussian is fitted to (at least 2).
        min_std: smallest deviation of a later round, as a share of the proposal's.
    """

    def __init__(self, *, iterations: int = 3, elite_share: float = 0.15, min_std: float = 0.1) -> None:
        if iterations < 1 or not 0 < elite_share <= 1:
            raise ValueError(
                f"CEM: iterations is {iterations}, elite_share {elite_share}; allowed: at least 1, in (0, 1]"
            )
        self.iterations = iterations
        self.elite_share = elite_share
        self.min_std = min_std

    def solve(self, energy: Energy, proposal: Proposal, samples: int, generator: torch.Generator) -> Solution:
        """See `Solver`."""
        mean, std = proposal.mean, proposal.std
        batch = torch.arange(len(mean), device=mean.device)
        elites = min(samples, max(2, round(self.elite_share * samples)))
        low, high = (bound.expand_as(mean).unsqueeze(1) for bound in (proposal.low, proposal.high))
        best, best_energy = mean, torch.full((len(mean),), torch.inf, device=mean.device)
        for _ in range(self.iterations):
            shape = (len(mean), samples, *mean.shape[1:])
            noise = torch.randn(shape, generator=generator, device=generator.device).to(mean)
            noise[:, 0] = 0
            candidates = (mean.unsqueeze(1) + std.unsqueeze(1) * noise).clamp(low, high)
            energies = energy(candidates)  # (B, S)
            lowest, order = energies.topk(elites, dim=1, largest=False)
            elite = candidates[batch.unsqueeze(1), order]  # (B, elites, H, A)
            better = lowest[:, 0] < best_energy
            best = torch.where(better[:, None, None], elite[:, 0], best)
            best_energy = torch.where(better, lowest[:, 0], best_energy)
            mean = elite.mean(1)
            std = torch.maximum(elite.std(1), self.min_std * proposal.std)
        return Solution(best, best_energy)
