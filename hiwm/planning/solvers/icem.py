"""iCEM (Pinneri et al. 2020, arXiv 2008.06389): CEM with noise that is correlated in time, and with elites that are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hiwm.checks import at_least, within
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.solvers.gaussian import Gaussian, standard_normal
from hiwm.planning.solvers.solver import Proposal, Scores, Solution, Solver, share_of, take


@dataclass(frozen=True)
class Carried:
    """State of iCEM between two rounds.

    Args:
        gaussian: to draw from.
        round: rounds so far.
        elite: the best of the last round and of the elites that competed again in it, best first, (B, K, C, F); None at first.
        scores: of the elite.
    """

    gaussian: Gaussian
    round: int = 0
    elite: Tensor | None = None
    scores: Scores | None = None


class ICEM(Solver[Carried]):
    """Algorithm 1 of the paper.

    The noise is coloured along the choices. A share of the elites competes again in the next round, with the scores they
    have. Every round has fewer candidates, and the Gaussian moves with inertia. The mean is a candidate in the first and in
    the last round. With `planner.warm_start` the next search tries the elites of the last round (`Solution.kept`), shifted
    in time.

    Args:
        iterations: rounds.
        elite_share: share of the first round's candidates that are the elite (K, at least 2).
        exponent: the power of the noise falls with the frequency f as f^-exponent; 0 for white noise.
        decay: factor by which the number of candidates falls in every round (gamma), down to 2 K.
        keep: share of the elites that compete again (xi).
        inertia: weight of the old Gaussian in the new one (alpha).
    """

    def __init__(
        self,
        *,
        iterations: int = 3,
        elite_share: float = 0.1,
        exponent: float = 2.0,
        decay: float = 1.25,
        keep: float = 0.3,
        inertia: float = 0.1,
    ) -> None:
        at_least(1, iterations=iterations, decay=decay)
        within("(0, 1]", elite_share=elite_share)
        within("[0, inf)", exponent=exponent)
        within("[0, 1]", keep=keep)
        within("[0, 1)", inertia=inertia)
        self.iterations = iterations
        self.elite_share = elite_share
        self.exponent = exponent
        self.decay = decay
        self.keep = keep
        self.inertia = inertia

    @property
    def cost_in_rounds(self) -> float:
        return sum(max(self.decay**-i, min(1, 2 * self.elite_share)) for i in range(self.iterations))

    def start(self, proposal: Proposal) -> Carried:
        return Carried(Gaussian.of(proposal))

    def draw(self, proposal: Proposal, state: Carried, samples: int, noise: EpisodeNoise) -> Tensor:
        if state.elite is not None:
            samples = max(round(samples / self.decay**state.round), min(samples, 2 * state.elite.shape[1]))
        drawn = coloured(standard_normal(proposal.mean, samples, noise), self.exponent)
        if state.round in (0, self.iterations - 1):
            drawn[:, 0] = 0
        return state.gaussian.spread(drawn)

    def update(self, proposal: Proposal, state: Carried, candidates: Tensor, scores: Scores, elite: Tensor) -> Carried:
        if state.elite is None or state.scores is None:
            elite = scores.order(share_of(candidates.shape[1], self.elite_share))
        else:
            candidates, scores = self._joined(state.elite, state.scores, candidates, scores)
            elite = scores.order(state.elite.shape[1])
        best = take(candidates, elite)
        mean = torch.lerp(best.mean(1), state.gaussian.mean, self.inertia)
        std = torch.lerp(best.std(1), state.gaussian.std, self.inertia)
        return Carried(Gaussian(mean, std), state.round + 1, best, scores.take(elite))

    def finish(self, solution: Solution, state: Carried) -> Solution:
        assert state.elite is not None, "there was at least one round"
        return replace(solution, kept=torch.cat([solution.kept, state.elite[:, : self._kept(state.elite)]], 1))

    def _kept(self, elite: Tensor) -> int:
        return round(self.keep * elite.shape[1])

    def _joined(self, elite: Tensor, known: Scores, candidates: Tensor, scores: Scores) -> tuple[Tensor, Scores]:
        """The elites that compete again, followed by the candidates, and the scores of both."""
        kept = self._kept(elite)
        cost = torch.cat([known.cost[:, :kept], scores.cost], 1)
        violation = None
        if known.violation is not None and scores.violation is not None:
            violation = torch.cat([known.violation[:, :kept], scores.violation], 1)
        return torch.cat([elite[:, :kept], candidates], 1), Scores(cost, violation)


def coloured(noise: Tensor, exponent: float) -> Tensor:
    """White noise filtered to the power spectrum f^-exponent along its choices, with standard deviation 1, (B, S, C, F).

    The paper draws the spectrum (Timmer & Koenig 1995), which gives the same distribution. The mean over the choices, of
    frequency 0, is scaled like the lowest frequency, 1 / C.
    """
    length = noise.shape[2]
    frequency = torch.fft.rfftfreq(length, device=noise.device)
    frequency[0] = 1 / length
    amplitude = frequency ** (-exponent / 2)
    # rfft stores half of the spectrum: each entry stands for two frequencies, except 0 and, for an even length, the last
    power = torch.cat([amplitude, amplitude[1 : (length + 1) // 2]]).square().mean()
    scale = (amplitude / power.sqrt())[:, None]
    return torch.fft.irfft(torch.fft.rfft(noise, dim=2) * scale, n=length, dim=2)
