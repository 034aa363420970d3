"""Over which range can a level's distance be trusted?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from hiwm.analysis.figures import log_ticks
from hiwm.analysis.questions.drawing import color, plain, row_of
from hiwm.analysis.questions.study import Finding, Study
from hiwm.levels.distance import distance as latent_distance

SPANS = (1, 3, 10, 30, 100, 300, 1000, 3000)  # bounds of ranges, environment steps
PAIRS = 5000  # random ones that a path joins, and as many along episodes
DRAWS = 20  # so many times as many are drawn at most, because few are joined where each episode has its own map
FEWEST = 40  # pairs in a range
TRUSTED = 0.5  # rank correlation
WANDERING = (
    " Time apart is no distance where the data wander: an episode may come back to where it was. A low correlation then says little "
    "about the level."
)
FAR = 1000  # pairs from which a plan along the shortest path is followed


def distance(study: Study) -> Finding | None:
    """Rank correlation of latent distance with the true shortest path, or else with time apart, in ranges of it."""
    a, b, apart, anywhere = _pairs(study)
    if len(apart) < FEWEST:
        return None
    spans = [(low, high) for low, high in pairwise(SPANS) if ((apart >= low) & (apart < high)).sum() >= FEWEST]
    true = study.oracle is not None
    of = "the true shortest path" if true else "time apart along episodes"
    metrics, curves, said = {}, [], []
    for k, latent in enumerate(study.held_out.latents):
        p = study.hierarchy.levels[k].p
        length = latent_distance(latent[a], latent[b], p).pow(1 / p).numpy()
        ranks = [_spearman(length[x], apart[x]) for low, high in spans for x in [(apart >= low) & (apart < high)]]
        overall, reach = _spearman(length[anywhere], apart[anywhere]), _trusted(spans, ranks)
        metrics[f"level{k}/distance_spearman"] = overall
        metrics[f"level{k}/distance_trusted_steps"] = float(reach)
        metrics |= {f"level{k}/distance_spearman_{low}": rank for (low, _), rank in zip(spans, ranks, strict=True)}
        curves.append((length / study.step_length(k, p), ranks))
        said.append(f"level {k} {_ranks(of, ranks, reach, overall)}")
        if (share := _progress(study, k, a[anywhere], b[anywhere], apart[anywhere])) is not None:
            metrics[f"level{k}/distance_progress"] = share
            said[-1] += f", and {share:.0%} of its plans along the shortest path come nearer to a far goal"
    sentence = "; ".join(said)
    return Finding(
        "How far a level's distance can be trusted",
        f"{sentence[0].upper()}{sentence[1:]}.",
        metrics,
        _draw(study, spans, curves, apart, of),
        f"Left: Spearman correlation of latent distance with {of}, within each range, for random pairs of held-out states and pairs along episodes. Above the dashed "
        f"line, {TRUSTED}, the distance is trusted; beyond that range a search follows noise, and a landmark graph must cover it. "
        "Right: median latent distance in typical steps of the level (root mean square of real ones), with quartiles."
        + ("" if true else WANDERING),
    )


def _ranks(of: str, ranks: list[float], reach: int, overall: float) -> str:
    """What a level ranks, in words."""
    if reach:
        return f"ranks states by {of} up to {reach} environment steps ({overall:.2f} over all distances)"
    which = "the nearest states" if any(rank >= TRUSTED for rank in ranks) else "states within a range of distances"
    whole = (
        f"but ranks near before far over all distances ({overall:.2f})"
        if overall >= TRUSTED
        else f"nor over all distances ({overall:.2f})"
    )
    return f"does not rank {which} by {of}, {whole}"


def _pairs(study: Study) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of held-out rows: their indices, (N,) and (N,), how far apart they are, (N,), and which of them count for the overall correlation, (N,).

    With an oracle these are the random pairs; without one, all pairs lie along episodes and all count.
    """
    rows, rng = study.held_out, np.random.default_rng(0)
    start = rng.integers(len(rows.rows), size=PAIRS)
    gap = np.floor(np.exp(rng.random(PAIRS) * np.log1p(rows.left[start]))).astype(int)
    along = start[gap <= rows.left[start]], (start + gap)[gap <= rows.left[start]]
    if study.oracle is None:
        apart = along[1] - along[0]
        known = apart > 0
        return along[0][known], along[1][known], apart[known], known[known]
    near, far = _joined(study, *along), _joined(study, *rng.integers(len(rows.rows), size=(2, PAIRS)))
    for _ in range(DRAWS - 1):
        if len(far[0]) >= PAIRS:
            break
        more = _joined(study, *rng.integers(len(rows.rows), size=(2, PAIRS)))
        far = tuple(np.concatenate(both)[:PAIRS] for both in zip(far, more, strict=True))
    a, b, apart = (np.concatenate(both) for both in zip(near, far, strict=True))
    return a, b, apart, np.arange(len(a)) >= len(near[0])


def _joined(study: Study, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """The pairs of held-out rows that a path joins, and its length: three arrays."""
    assert study.oracle is not None, "only an oracle knows paths"
    rows = study.held_out.rows
    apart = study.oracle.shortest_steps(study.observations(rows[a]), study.observations(rows[b]))
    known = np.isfinite(apart) & (apart > 0)
    return a[known], b[known], apart[known]


def _progress(study: Study, k: int, a: np.ndarray, b: np.ndarray, apart: np.ndarray) -> float | None:
    """Share of far pairs whose latent distance falls, by at least half a step, along the shortest path as far as a plan of level k looks ahead.

    Far pairs are beyond that reach. From a pair whose distance does not fall, a search does not move, however high the correlation is.
    None without an oracle, or with too few pairs.
    """
    ahead, p = study.agent.planner.models[k].looks_ahead, study.hierarchy.levels[k].p
    far = np.flatnonzero(apart > ahead)[:FAR]
    if study.oracle is None or len(far) < FEWEST:
        return None
    start, goal = (study.observations(study.held_out.rows[rows[far]]) for rows in (a, b))
    now = study.held_out.latents[k][a[far]]
    there, on_path = (study.encode(study.oracle.along(start, goal, steps))[k] for steps in (np.inf, ahead))
    before, after = (latent_distance(latent, there, p) ** (1 / p) for latent in (now, on_path))
    return float((before - after >= study.step_length(k, p) / 2).float().mean())


def _spearman(length: np.ndarray, apart: np.ndarray) -> float:
    if len(length) < 2 or np.ptp(length) == 0 or np.ptp(apart) == 0:  # constants have no ranks
        return float("nan")
    return float(np.asarray(spearmanr(length, apart))[0])


def _trusted(spans: list[tuple[int, int]], ranks: list[float]) -> int:
    """End of the range from the smallest distances on over which every rank correlation is at least `TRUSTED`.

    A range that too few pairs measure ends it too.
    """
    reach = SPANS[0]
    for (low, high), rank in zip(spans, ranks, strict=True):
        if low != reach or not rank >= TRUSTED:
            break
        reach = high
    return reach if reach > SPANS[0] else 0


def _draw(
    study: Study, spans: list[tuple[int, int]], curves: list[tuple[np.ndarray, list[float]]], apart: np.ndarray, of: str
) -> Figure:
    figure, ((left, right),) = row_of(2, 5.2, 3.6)
    centres = np.sqrt(np.prod(np.array(spans, float).reshape(-1, 2), 1))
    edges = np.geomspace(max(1, apart.min()), apart.max() + 1, 16)
    for k, (length, ranks) in enumerate(curves):
        left.plot(centres, ranks, "o-", color=color(k), label=f"level {k}")
        cells = [length[(apart >= low) & (apart < high)] for low, high in pairwise(edges)]
        middle = [i for i, cell in enumerate(cells) if len(cell) >= 10]
        low, median, high = np.array([np.percentile(cells[i], (25, 50, 75)) for i in middle]).reshape(-1, 3).T
        at = np.sqrt(edges[:-1] * edges[1:])[middle]
        right.fill_between(at, low, high, color=color(k), alpha=0.15, lw=0)
        right.plot(at, median, color=color(k), lw=1.6)
    left.axhline(TRUSTED, color="0.5", lw=0.8, ls="--", label=f"trusted above {TRUSTED}")
    left.axhline(0, color="0.7", lw=0.7)
    lowest = np.nanmin([rank for _, ranks in curves for rank in [*ranks, 0.0]])
    left.set(xscale="log", xlabel="environment steps apart", ylabel="Spearman correlation")
    left.set_ylim(min(-0.1, lowest - 0.05), 1.03)
    left.set_title(f"latent distance and {of}", fontsize=10)
    right.set(xscale="log", yscale="log", xlabel="environment steps apart", ylabel="latent distance (typical steps)")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=len(curves) + 1, fontsize=9, frameon=False
    )
    log_ticks(left.xaxis, right.xaxis, right.yaxis)
    plain(left, right)
    return figure
