"""Do other seeds learn the same latents?"""

from __future__ import annotations

import re
from glob import escape
from pathlib import Path

import numpy as np

from hiwm.agent import Agent, load_agent
from hiwm.analysis.questions.study import Finding, Study
from hiwm.analysis.similarity import cka_matrices, draw_cka
from hiwm.files import saved_folder

ROWS = 4000  # held-out states
SEED = re.compile(r"(?P<others>.*,)?seed\d+")  # of a run, after its other swept values


def stability(study: Study) -> Finding | None:
    """Linear CKA between this run and those of other seeds beside it; None if there are none."""
    agents = {"this run": study.agent} | other_seeds(study)
    if len(agents) < 2:
        return None
    rows = study.held_out.rows
    rows = rows[np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(int)]
    matrices = cka_matrices([*agents.values()], study.dataset, rows)
    pairs = np.triu_indices(len(agents), 1)
    least = {f"level{k}/seeds_cka": float(matrix[pairs].mean()) for k, matrix in enumerate(matrices)}
    said = ", ".join(f"{value:.2f} at level {k}" for k, value in enumerate(least.values()))
    return Finding(
        "Stability across seeds", f"Linear CKA between {len(agents)} seeds, mean of all pairs: {said}.", least,
        draw_cka({f"level {k}": matrix for k, matrix in enumerate(matrices)}, [*agents]),
        "Linear CKA of the latents of the same held-out states. 1: the latents of two seeds are the same up to a rotation and a scale.",
    )  # fmt: skip


def other_seeds(study: Study) -> dict[str, Agent]:
    """Name -> agent of every other run that differs in the seed alone, with the same data and as many levels."""
    if study.folder is None:
        return {}
    folder = Path(study.folder).resolve()
    named = SEED.fullmatch(folder.name)
    home, others = (folder.parent, named["others"] or "") if named else (folder, "")
    siblings = [run for run in sorted(home.glob(f"{escape(others)}seed*")) if SEED.fullmatch(run.name)]
    found = {}
    for run in siblings if others else [home, *siblings]:  # seed 0 has no folder of its own
        if run != folder and saved_folder(run / "hierarchy").exists():
            agent = load_agent(run / "hierarchy", allow=study.agent.allow)
            same = agent.spec.dataset == study.agent.spec.dataset and set(agent.inputs) == set(study.agent.inputs)
            if same and len(agent.hierarchy) == study.num_levels:
                found[run.name.removeprefix(others) if run != home else "seed0"] = agent
    return found
